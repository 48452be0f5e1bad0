//! How far this host's clock is from EC2's, by the date of EC2's last answer, refusals included.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_sdk_ec2::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::BoxError,
};
use aws_smithy_types::{DateTime, date_time::Format};

/// Nothing was heard yet.
const UNKNOWN: i64 = i64::MIN;

/// Reads the date of every answer. A clone is the same one.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub fn new() -> Clock {
        Clock(Arc::new(AtomicI64::new(UNKNOWN)))
    }

    /// Seconds that this host is ahead of EC2; negative if it is behind.
    pub fn ahead_s(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let theirs = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if let Some(theirs) = theirs {
            self.0.store(i64::try_from(ours).unwrap_or(i64::MAX) - theirs.secs(), Ordering::Relaxed);
        }
        Ok(())
    }
}
