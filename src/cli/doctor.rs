//! `weavers doctor`: what is wrong with this host, why it matters, and what to type.

use serde_json::json;

use super::{Exit, Failure, Global, render, screen::Screen};
use crate::{
    api::FORMAT_VERSION,
    doctor::{self, Level},
};

/// Ends with 1 if something fails; warnings are none.
pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    let facts = doctor::gather(&global.config, &global.socket).await;
    let findings = doctor::examine(&facts);
    let ok = findings.iter().all(|finding| finding.level != Level::Fail);
    screen.answer(
        || json!({ "format_version": FORMAT_VERSION, "ok": ok, "findings": findings }),
        || render::doctor::text(&findings),
    );
    Ok(if ok { Exit::Success } else { Exit::Failure })
}
