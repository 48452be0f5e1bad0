//! A plan in a file: what `plan --out` keeps and `apply FILE` carries out as it is, or not at all.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::{api::FORMAT_VERSION, node::protocol::request::SavedPlan};

/// A file larger than this is no plan.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct PlanFile {
    format_version: String,
    /// Of the program that made it.
    weavers_version: String,
    #[serde(flatten)]
    saved: SavedPlan,
}

/// Writes the plan to `path`.
pub(super) fn write(path: &Path, saved: SavedPlan) -> Result<(), Failure> {
    let file = PlanFile {
        format_version: FORMAT_VERSION.to_owned(),
        weavers_version: env!("CARGO_PKG_VERSION").to_owned(),
        saved,
    };
    let text = serde_json::to_string_pretty(&file).expect("plans have string keys");
    fs::write(path, text + "\n")
        .map_err(|error| Failure::failed(format!("{} cannot be written: {error}", path.display())))
}

/// Reads the plan at `path`.
pub(super) fn read(path: &Path) -> Result<SavedPlan, Failure> {
    let name = path.display();
    let unreadable = |error| Failure::failed(format!("{name} cannot be read: {error}"));
    if fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(Failure::failed(format!("{name} is too large for a plan")));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let file: PlanFile = serde_json::from_str(&text).map_err(|error| {
        Failure::failed(format!("{name} is not a plan: {error}")).hint("`weavers plan --out FILE` makes one")
    })?;
    if file.format_version != FORMAT_VERSION {
        let message =
            format!("{name} is of format {}, this program knows {FORMAT_VERSION}", file.format_version);
        return Err(Failure::failed(message).hint("make the plan anew with this program"));
    }
    Ok(file.saved)
}
