//! What becomes of calls of EC2: each is counted once it has ended, by what EC2 said last.

use std::time::Instant;

use aws_sdk_ec2::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef},
    },
    error::BoxError,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use crate::metrics::Calls;

/// Counts calls. A clone counts for the same.
#[derive(Clone, Debug)]
pub(super) struct Counted(pub Calls);

#[derive(Debug)]
struct Begun(Instant);

impl Storable for Begun {
    type Storer = StoreReplace<Begun>;
}

impl Intercept for Counted {
    fn name(&self) -> &'static str {
        "calls"
    }

    fn read_before_execution(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(Begun(Instant::now()));
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (Some(of), Some(Begun(begun))) = (bag.load::<Metadata>(), bag.load::<Begun>()) else {
            return Ok(());
        };
        let code = context.response().map_or_else(|| "unanswered".to_owned(), code);
        self.0.ended(of.name(), &code, begun.elapsed());
        Ok(())
    }
}

/// The longest code that is believed to be one.
const CODE_LEN_MAX: usize = 80;

/// `OK`, EC2's code of an error, or the status of an answer that has none.
fn code(response: &HttpResponse) -> String {
    if response.status().is_success() {
        return "OK".to_owned();
    }
    let body = String::from_utf8_lossy(response.body().bytes().unwrap_or_default());
    let named = body.split_once("<Code>").and_then(|(_, rest)| Some(rest.split_once("</Code>")?.0));
    let is_code = |code: &&str| {
        code.len() <= CODE_LEN_MAX && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
    };
    named.filter(is_code).map_or_else(|| response.status().as_u16().to_string(), str::to_owned)
}
