//! What the kernel's error numbers mean to a person and to the plan.

use std::{fmt, io};

use nix::errno::Errno;
use rtnetlink::Error;

use crate::state::{Fault, FaultKind};

/// What stands in for the operating system's answer when the connection to it is gone.
const NO_ANSWER: Errno = Errno::ECONNRESET;

/// A failure that can say which error number it was.
pub trait Cause: fmt::Display {
    /// The error number.
    fn errno(&self) -> Errno;
}

impl Cause for Errno {
    fn errno(&self) -> Errno {
        *self
    }
}

impl Cause for io::Error {
    fn errno(&self) -> Errno {
        Errno::from_raw(self.raw_os_error().unwrap_or_default())
    }
}

impl Cause for Error {
    fn errno(&self) -> Errno {
        match self {
            Error::NetlinkError(message) => Errno::from_raw(message.raw_code().saturating_neg()),
            Error::RequestFailed => NO_ANSWER,
            _ => Errno::EINVAL,
        }
    }
}

/// A fault that names the thing, from the error that stopped it.
pub fn fault(what: impl fmt::Display, cause: &impl Cause) -> Fault {
    let errno = cause.errno();
    let kind = match errno {
        Errno::EPERM | Errno::EACCES => FaultKind::Denied,
        NO_ANSWER => FaultKind::Unreachable,
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ERANGE | Errno::EAFNOSUPPORT => FaultKind::Invalid,
        _ => FaultKind::Outdated,
    };
    let reason = match errno {
        Errno::UnknownErrno => cause.to_string(),
        known => known.desc().to_lowercase(),
    };
    let denied = kind == FaultKind::Denied;
    Fault {
        kind,
        message: format!("{what}: {reason}"),
        hint: denied.then(|| "run as root, or grant CAP_NET_ADMIN and CAP_SYS_ADMIN".into()),
        request_id: None,
    }
}

/// A fault of our own finding.
pub fn found(kind: FaultKind, message: impl Into<String>) -> Fault {
    Fault { kind, message: message.into(), hint: None, request_id: None }
}

/// Whether the thing was made or not, it is there.
pub fn already_there<C: Cause>(result: Result<(), C>) -> Result<(), C> {
    result.or_else(|cause| if cause.errno() == Errno::EEXIST { Ok(()) } else { Err(cause) })
}

/// Whether the thing was removed or not, it is gone.
pub fn already_gone<C: Cause>(result: Result<(), C>) -> Result<(), C> {
    result.or_else(|cause| match cause.errno() {
        Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL => Ok(()),
        _ => Err(cause),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_permitted_says_what_would_permit_it() {
        let fault = fault("adding route 10.32.0.0/24", &Errno::EPERM);
        assert_eq!(fault.kind, FaultKind::Denied);
        assert_eq!(fault.message, "adding route 10.32.0.0/24: operation not permitted");
        assert!(fault.hint.is_some_and(|hint| hint.contains("CAP_NET_ADMIN")));
    }

    #[test]
    fn what_is_already_so_is_no_failure_and_anything_else_is() {
        assert!(already_there(Err(Errno::EEXIST)).is_ok());
        assert!(already_gone(Err(Errno::ESRCH)).is_ok());
        assert!(already_there(Err(Errno::ENOENT)).is_err());
        assert!(already_gone(Err(Errno::EEXIST)).is_err());
    }
}
