//! What EC2 answers when it refuses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal: EC2's code, its words, and the HTTP status that carries them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What a program decides by.
    pub code: String,
    /// What a person reads.
    pub message: String,
    /// HTTP status.
    pub status: u16,
}

impl ApiError {
    /// A fault of the caller, status 400.
    pub fn client(code: &str, message: impl Into<String>) -> ApiError {
        ApiError { code: code.to_owned(), message: message.into(), status: 400 }
    }

    /// A value that is not accepted.
    pub fn value(message: impl Into<String>) -> ApiError {
        ApiError::client("InvalidParameterValue", message)
    }

    /// A parameter that is not there.
    pub fn missing(parameter: &str) -> ApiError {
        ApiError::client("MissingParameter", format!("no value for the required parameter {parameter}"))
    }

    /// Parameters that do not go together.
    pub fn combination(message: impl Into<String>) -> ApiError {
        ApiError::client("InvalidParameterCombination", message)
    }

    /// The caller lacks the permission.
    pub fn unauthorized(action: &str) -> ApiError {
        let message = format!("not authorized to perform this operation: ec2:{action}");
        ApiError { status: 403, ..ApiError::client("UnauthorizedOperation", message) }
    }

    /// A dry run that would have gone through.
    pub fn dry_run() -> ApiError {
        let message = "the request would have succeeded, but the DryRun flag is set";
        ApiError { status: 412, ..ApiError::client("DryRunOperation", message) }
    }

    /// Too many calls.
    pub fn throttled() -> ApiError {
        ApiError { status: 503, ..ApiError::client("RequestLimitExceeded", "request limit exceeded") }
    }

    /// The time of the caller's credentials is over.
    pub fn expired_token() -> ApiError {
        ApiError::client("ExpiredToken", "the security token included in the request is expired")
    }

    /// The request bears a time that is not now.
    pub fn request_expired() -> ApiError {
        ApiError::client("RequestExpired", "request has expired")
    }

    /// The server failed, or its answer was lost on the way: the change may have happened.
    pub fn internal() -> ApiError {
        ApiError { status: 500, ..ApiError::client("InternalError", "an internal error has occurred") }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (status {})", self.code, self.message, self.status)
    }
}

impl std::error::Error for ApiError {}
