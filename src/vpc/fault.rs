//! Why EC2 refused, in words that name the thing and the way out.
//!
//! [`classify`] is a table over codes, statuses and messages: EC2 models no errors, so these are all
//! there is. How the SDK wraps them is taken apart below it.

use std::error::Error;

use aws_sdk_ec2::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};

use super::proxy::Proxy;
use crate::{
    state::{
        Fault,
        FaultKind::{self, Denied, Invalid, Outdated, Quota, Throttled, Unreachable, Unsigned},
    },
    text::printable,
};

/// Characters of EC2's own text that are repeated; a refusal may carry an encoded message of a thousand.
const TEXT_LEN_MAX: usize = 240;

/// A call, as far as a refusal of it needs to know.
#[derive(Clone, Debug)]
pub struct Call {
    /// EC2's name of it, which is also IAM's.
    pub operation: &'static str,
    /// What it is about: `10.40.0.0/13 in rtb-0a1`.
    pub subject: String,
    /// What a policy allows it on: an ARN, or `*`.
    pub resource: String,
    /// The command that does the same by hand, where that is a way out.
    pub by_hand: Option<String>,
    /// Routes last seen in the table.
    pub used: Option<usize>,
}

/// What kind of refusal it is, in words, with the way out.
pub fn classify(call: &Call, code: Option<&str>, status: u16, message: Option<&str>) -> Fault {
    let (code, text) = (printable(code.unwrap_or_default()), shorten(message.unwrap_or_default()));
    let code = code.as_str();
    let kind = kind(call.operation, code, status, &text);
    let reason = match (kind, code, text.as_str()) {
        (Denied, "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException", _) => {
            format!("not allowed ({code})")
        }
        (Quota, _, text) => match call.used {
            Some(used) => format!("the table is full at {used} routes: {text} ({code})"),
            None => format!("the table is full: {text} ({code})"),
        },
        (_, "", "") => format!("status {status} without a reason"),
        (_, code, "") => code.to_owned(),
        (_, "", text) => text.to_owned(),
        (_, code, text) => format!("{text} ({code})"),
    };
    let message = format!("{} of {}: {reason}", call.operation, call.subject);
    Fault { kind, message, hint: hint(call, kind, code, &text), request_id: None }
}

fn kind(operation: &str, code: &str, status: u16, text: &str) -> FaultKind {
    match code {
        "RouteAlreadyExists" | "InvalidRoute.NotFound" => Outdated,
        // A missing route has no code of its own in ReplaceRoute.
        "InvalidParameterValue" if operation == "ReplaceRoute" && text.contains("no route defined") => {
            Outdated
        }
        // Gone, or too new to be known everywhere.
        "InvalidRouteTableID.NotFound"
        | "InvalidNetworkInterfaceID.NotFound"
        | "InvalidInstanceID.NotFound" => Outdated,
        "RouteLimitExceeded" | "ResourceCountLimitExceeded" => Quota,
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => Denied,
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidSecurity" => Unsigned,
        "OptInRequired" | "Blocked" | "PendingVerification" => Denied,
        "RequestLimitExceeded"
        | "EC2ThrottledException"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "TooManyRequestsException"
        | "ServiceUnavailable"
        | "Unavailable" => Throttled,
        "ServerInternal" | "InternalError" | "InternalFailure" => Unreachable,
        _ => match status {
            429 | 503 => Throttled,
            500.. => Unreachable,
            401 => Unsigned,
            403 => Denied,
            _ => Invalid,
        },
    }
}

fn hint(call: &Call, kind: FaultKind, code: &str, text: &str) -> Option<String> {
    let hint = match (kind, code) {
        (Denied, "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException") => permission(call),
        (Unsigned, "ExpiredToken" | "ExpiredTokenException") => {
            "those of the instance's role renew themselves; renew others, or remove them from the daemon's environment \
             so that the role is used"
                .to_owned()
        }
        (Unsigned, "RequestExpired" | "InvalidSecurity") => CLOCK.to_owned(),
        (Unsigned, "SignatureDoesNotMatch") if text.contains("expired") || text.contains("not yet") => {
            CLOCK.to_owned()
        }
        (Denied, "OptInRequired" | "Blocked" | "PendingVerification") => {
            "the AWS account itself is not served: see its sign-up and support pages".to_owned()
        }
        (Denied | Unsigned, _) => format!("check which credentials the daemon finds (environment, profile, instance's role); {CLOCK}"),
        (Quota, _) => "remove routes that nobody needs, or raise the quota `Routes per route table` (L-93826ACB), \
             which can be 1000"
            .to_owned(),
        (Outdated, "InvalidNetworkInterfaceID.NotFound") => {
            "restart the daemon if the host's interface was exchanged".to_owned()
        }
        (Throttled, _) => "the calls of the whole account in this region are limited together: find who else makes them \
             (CloudTrail); weavers waits longer from try to try"
            .to_owned(),
        (Unreachable, _) => {
            "EC2 itself failed; it is asked again, and looked at before anything is repeated".to_owned()
        }
        (Outdated | Invalid, _) => return None,
    };
    Some(hint)
}

const CLOCK: &str =
    "EC2 refuses requests signed by a clock that is minutes off: check the host's (`chronyc tracking`)";

/// The policy statement that is missing.
fn permission(call: &Call) -> String {
    let statement = format!(
        r#"{{"Effect": "Allow", "Action": "ec2:{}", "Resource": "{}"}}"#,
        call.operation, call.resource
    );
    match &call.by_hand {
        Some(command) => {
            format!("do it by hand: `{command}`; or add to the policy of the host's role: {statement}")
        }
        None => format!("add to the policy of the host's role: {statement}"),
    }
}

/// What EC2, or whoever answers in its place, says, fit to be shown.
fn shorten(text: &str) -> String {
    let text = printable(text.trim().trim_end_matches('.'));
    match text.char_indices().nth(TEXT_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

// ===== from the SDK =====

/// A refusal, with the code by which some callers turn it into success.
#[derive(Debug)]
pub(super) struct Refused {
    pub code: String,
    /// EC2's own text.
    pub text: String,
    pub fault: Fault,
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Fault {
        refused.fault
    }
}

/// What became of a call that did not succeed.
pub(super) fn refused<E>(call: &Call, error: SdkError<E, HttpResponse>) -> Refused
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let text = error.message().unwrap_or_default().to_owned();
    let mut fault = match &error {
        SdkError::ServiceError(refusal) => {
            classify(call, error.code(), refusal.raw().status().as_u16(), error.message())
        }
        SdkError::TimeoutError(_) => unanswered(call, Unreachable, "no answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            unanswered(call, Unreachable, &root(&error))
        }
        SdkError::ResponseError(_) => unanswered(call, Unreachable, &root(&error)),
        SdkError::DispatchFailure(failure) if !failure.is_user() => unsigned(call, &error),
        _ => unanswered(call, Invalid, &root(&error)),
    };
    fault.request_id = error.request_id().map(printable);
    // Whatever bears a code is EC2's own answer.
    if code.is_empty()
        && let Some(proxy) = Proxy::of_environment()
    {
        fault = by_way_of(&proxy, fault);
    }
    Refused { code, text, fault }
}

/// The proxy may be what failed.
fn by_way_of(proxy: &Proxy, fault: Fault) -> Fault {
    let message = format!("{}, {}", fault.message, proxy.way());
    Fault { message, hint: Some(proxy.way_out()), ..fault }
}

fn unanswered(call: &Call, kind: FaultKind, reason: &str) -> Fault {
    let hint = match kind {
        Unreachable => Some(
            "check the way to the EC2 endpoint: default route, proxy, VPC endpoint, name server".to_owned(),
        ),
        Denied | Unsigned | Throttled | Quota | Outdated | Invalid => None,
    };
    Fault {
        kind,
        message: format!("{} of {}: {reason}", call.operation, call.subject),
        hint,
        request_id: None,
    }
}

/// The request never left: for want of credentials, as a rule.
fn unsigned(call: &Call, error: &dyn Error) -> Fault {
    let reason = chain(error);
    if !reason.contains("credential") {
        return unanswered(call, Unreachable, &reason);
    }
    Fault {
        kind: Unsigned,
        message: format!("{} of {}: no credentials: {}", call.operation, call.subject, shorten(&reason)),
        hint: Some("give the instance a role (instance profile) that may call EC2".to_owned()),
        request_id: None,
    }
}

/// An error and its sources, each in its own words.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    shorten(&text)
}

/// The last source of an error, which is the one that says what happened.
fn root(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    shorten(&last.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: &'static str) -> Call {
        Call {
            operation,
            subject: "10.40.0.0/13 in rtb-1".to_owned(),
            resource: "arn:aws:ec2:eu-west-1:*:route-table/rtb-1".to_owned(),
            by_hand: None,
            used: None,
        }
    }

    #[test]
    fn every_refusal_is_of_the_kind_that_its_handling_needs() {
        let missing =
            "There is no route defined for '10.40.0.0/13' in the route table. Use CreateRoute instead.";
        let table = [
            ("CreateRoute", Some("RouteAlreadyExists"), 400, "", Outdated),
            ("DeleteRoute", Some("InvalidRoute.NotFound"), 400, "", Outdated),
            ("ReplaceRoute", Some("InvalidRoute.NotFound"), 400, "", Outdated),
            ("ReplaceRoute", Some("InvalidParameterValue"), 400, missing, Outdated),
            ("ReplaceRoute", Some("InvalidParameterValue"), 400, "belong to different networks", Invalid),
            ("CreateRoute", Some("InvalidParameterValue"), 400, missing, Invalid),
            ("CreateRoute", Some("InvalidRouteTableID.NotFound"), 400, "", Outdated),
            ("CreateRoute", Some("RouteLimitExceeded"), 400, "", Quota),
            ("CreateRoute", Some("ResourceCountLimitExceeded"), 400, "", Quota),
            ("CreateRoute", Some("UnauthorizedOperation"), 403, "", Denied),
            ("CreateRoute", Some("AccessDenied"), 403, "", Denied),
            ("CreateRoute", Some("AuthFailure"), 401, "", Unsigned),
            ("CreateRoute", Some("RequestExpired"), 400, "", Unsigned),
            ("CreateRoute", Some("ExpiredToken"), 400, "", Unsigned),
            ("CreateRoute", Some("RequestLimitExceeded"), 503, "", Throttled),
            ("CreateRoute", Some("EC2ThrottledException"), 503, "", Throttled),
            ("CreateRoute", None, 503, "", Throttled),
            ("CreateRoute", None, 429, "", Throttled),
            ("CreateRoute", Some("InternalError"), 500, "", Unreachable),
            ("CreateRoute", Some("InternalError"), 503, "", Unreachable),
            ("CreateRoute", None, 502, "", Unreachable),
            ("CreateRoute", Some("MissingParameter"), 400, "", Invalid),
            ("CreateRoute", Some("SomethingNew"), 400, "", Invalid),
            ("CreateRoute", Some("SomethingNew"), 403, "", Denied),
        ];
        for (operation, code, status, message, expected) in table {
            let fault = classify(&call(operation), code, status, Some(message));
            assert_eq!(fault.kind, expected, "{operation} {code:?} {status} {message}");
        }
    }

    #[test]
    fn a_missing_permission_comes_with_the_statement_that_grants_it() {
        let encoded =
            format!("You are not authorized. Encoded authorization failure message: {}", "x".repeat(900));
        let fault = classify(&call("CreateRoute"), Some("UnauthorizedOperation"), 403, Some(&encoded));
        assert_eq!(
            fault.message,
            "CreateRoute of 10.40.0.0/13 in rtb-1: not allowed (UnauthorizedOperation)"
        );
        let statement = r#"{"Effect": "Allow", "Action": "ec2:CreateRoute", "Resource": "arn:aws:ec2:eu-west-1:*:route-table/rtb-1"}"#;
        let hint = fault.hint.unwrap();
        assert!(hint.ends_with(statement), "{hint}");
    }

    #[test]
    fn a_check_that_may_not_be_turned_off_comes_with_the_command_that_does_it() {
        let by_hand =
            "aws ec2 modify-network-interface-attribute --no-source-dest-check --network-interface-id eni-1";
        let call = Call { by_hand: Some(by_hand.to_owned()), ..call("ModifyNetworkInterfaceAttribute") };
        let hint = classify(&call, Some("AccessDenied"), 403, None).hint.unwrap();
        assert!(hint.contains(by_hand) && hint.contains("ec2:ModifyNetworkInterfaceAttribute"), "{hint}");
    }

    #[test]
    fn an_answer_cannot_write_a_line_of_its_own_or_steer_a_terminal() {
        let fault = classify(&call("CreateRoute"), Some("Odd"), 400, Some("no\nMAINPID=1\x1b[2J"));
        assert!(fault.message.ends_with("no?MAINPID=1?[2J (Odd)"), "{}", fault.message);
    }

    #[test]
    fn a_full_table_says_how_many_routes_it_holds_where_that_was_seen() {
        let call = Call { used: Some(50), ..call("CreateRoute") };
        let text = "The maximum number of routes has been reached.";
        let fault = classify(&call, Some("RouteLimitExceeded"), 400, Some(text));
        assert_eq!(
            fault.message,
            "CreateRoute of 10.40.0.0/13 in rtb-1: the table is full at 50 routes: \
             The maximum number of routes has been reached (RouteLimitExceeded)"
        );
        assert!(fault.hint.unwrap().contains("L-93826ACB"));
    }

    #[test]
    fn credentials_that_fail_and_clocks_that_are_wrong_have_hints_of_their_own() {
        let hint = |code, text| classify(&call("CreateRoute"), Some(code), 400, Some(text)).hint.unwrap();
        assert!(hint("RequestExpired", "").contains("clock"));
        assert!(hint("SignatureDoesNotMatch", "Signature expired: ...").contains("clock"));
        assert!(hint("ExpiredToken", "").contains("renew"));
        assert!(hint("AuthFailure", "").contains("credentials"));
    }

    #[test]
    fn a_page_of_html_is_told_by_its_status_and_a_long_text_is_cut() {
        let html = classify(&call("CreateRoute"), None, 500, None);
        assert_eq!(html.message, "CreateRoute of 10.40.0.0/13 in rtb-1: status 500 without a reason");
        let long = classify(&call("CreateRoute"), Some("Odd"), 400, Some(&"ä".repeat(1000)));
        assert!(long.message.chars().count() < TEXT_LEN_MAX + 80);
    }
}
