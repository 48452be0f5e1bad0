//! The control socket: HTTP with JSON bodies over a Unix socket.
//!
//! A call is `/v1/` and the name of what is asked. `GET` where the question has no body and changes
//! nothing, otherwise `POST` with the fields as a JSON object.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | `status` |
//! | `GET /v1/plan` | | `plan`: what would change, looked at anew |
//! | `GET /v1/await_ready` | | `done`, once ready |
//! | `GET /v1/show_ring` | | `ring` |
//! | `GET /v1/range` | | `addresses`: the container address space |
//! | `POST /v1/explain` | `address` | `explanation` |
//! | `POST /v1/apply` | `plan`?, `confirm_timeout_ms`? | `plan`: what was changed, the file having been adopted |
//! | `POST /v1/confirm` | | `done`: what was applied with a timeout is kept |
//! | `POST /v1/preview` | `config` | `plan`: what would change under this `weave.toml` |
//! | `GET /v1/permissions` | | `permissions`: what EC2 would carry out |
//! | `GET /v1/metrics` | | what is measured, as text of Prometheus and not as a document |
//! | `POST /v1/reload` | | `done`, once the file is adopted |
//! | `POST /v1/rotate_key` | | `done`, once the tunnel's new key is on the disk |
//! | `POST /v1/attach` | `target`, `name`?, `subnet`? | `attached` |
//! | `POST /v1/connect` | `target`, `key`, `address`?, `mac`?, `mtu`?, `subnet`?, `name`?, `ports`? | `connected` |
//! | `POST /v1/check` | `target`, `key` | `connected`, if it is as it was made |
//! | `POST /v1/lend` | `target`, `key`, `address`?, `subnet`?, `block`?, `name`? | `lent` |
//! | `POST /v1/lent` | `key` | `lent`, at once |
//! | `GET /v1/can_connect` | | `done`, or why not, at once |
//! | `POST /v1/collect` | | `done`, once containers that are gone were looked for |
//! | `POST /v1/detach` | `target` | `done`, or `absent` if nothing was attached |
//! | `POST /v1/allocate` | `ident`, `subnet`? | `addresses` |
//! | `POST /v1/claim` | `ident`, `address` | `addresses` |
//! | `POST /v1/free` | `ident`, `address`? | `done` |
//! | `POST /v1/lookup` | `ident` | `addresses` |
//! | `POST /v1/forget` | `peer` | `moved` |
//! | `POST /v1/drain` | | `moved` |
//! | `POST /v1/reset` | | `done` |
//!
//! What went well is answered with 200 and `{"format_version":"1.0","answer":{"status":{…}}}`, the
//! rest with `{"format_version":"1.0","error":{"kind":…,"message":…,"hint":…}}`.

use serde::{Deserialize, Serialize};

use crate::{
    config::Sources,
    node::protocol::request::{Loan, Pool, Refusal, Request, Response, SavedPlan, Wish},
    state::Key,
};

mod wire;
pub mod client;
pub mod blocking;
mod socket;
pub mod server;
pub mod docker;
pub mod scrape;

/// Version of the documents: minor changes add, major ones break.
pub const FORMAT_VERSION: &str = "1.0";

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are.
pub enum ApiRequest {
    /// What its node answers. `Attach`, `Detach`, `Connect` and `Check` are not asked this way but by target.
    Node(Request),
    /// What would change under this `weave.toml` and these drop-ins. Nothing is adopted.
    Preview { config: Sources },
    /// Adopt the configuration file and carry it out: only if this is what it takes, or until it is not
    /// confirmed within these milliseconds.
    ApplyOnTerms { plan: Option<Box<SavedPlan>>, confirm_timeout_ms: Option<u64> },
    /// Ask EC2, by dry runs, which calls it would carry out.
    Permissions,
    /// Read the configuration file again.
    Reload,
    /// Give this host's end of tunnels another key.
    RotateKey,
    /// What is measured.
    Metrics,
    /// Connect a network namespace: a pid, or the path of the namespace. The daemon looks it up,
    /// since whoever asks may not be allowed to.
    AttachTarget { target: String, name: Option<String>, subnet: Option<Pool> },
    /// Connect an interface in the network namespace at this path, as a runtime asks for it.
    ConnectTarget { target: String, wish: Wish },
    /// Whether that is as it was made.
    CheckTarget { target: String, key: Key },
    /// Lend an address to an interface that another plugin makes in the network namespace at this path.
    LendTarget { target: String, loan: Loan },
    /// Disconnect it: the name it was attached under, a pid, or a path, tried in this order.
    DetachTarget { target: String },
}

impl ApiRequest {
    /// Whether its answer waits for something: peers, EC2, the kernel, a look. The rest is answered at once, however
    /// many wait.
    fn waits(&self) -> bool {
        match self {
            ApiRequest::Node(request) => match request {
                Request::Status
                | Request::ShowRing
                | Request::Range
                | Request::CanConnect
                | Request::Lent { .. }
                | Request::LeasesGone { .. }
                | Request::Confirm
                | Request::Free { .. }
                | Request::Lookup { .. } => false,
                Request::Apply
                | Request::AwaitReady
                | Request::Examine
                | Request::Plan
                | Request::Explain { .. }
                | Request::Attach { .. }
                | Request::Connect { .. }
                | Request::Lend { .. }
                | Request::Check { .. }
                | Request::Docker(_)
                | Request::Collect
                | Request::Detach { .. }
                | Request::Allocate { .. }
                | Request::Claim { .. }
                | Request::Forget { .. }
                | Request::Drain
                | Request::Reset => true,
            },
            ApiRequest::Reload | ApiRequest::Metrics => false,
            ApiRequest::Preview { .. }
            | ApiRequest::ApplyOnTerms { .. }
            | ApiRequest::Permissions
            | ApiRequest::RotateKey
            | ApiRequest::AttachTarget { .. }
            | ApiRequest::ConnectTarget { .. }
            | ApiRequest::CheckTarget { .. }
            | ApiRequest::LendTarget { .. }
            | ApiRequest::DetachTarget { .. } => true,
        }
    }
}

/// What came of it.
pub type Answer = Result<Response, Refusal>;

/// An answer as it stands in a body.
#[derive(Serialize, Deserialize)]
struct Document {
    format_version: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Answer(Response),
    Error(Refusal),
}

impl From<Answer> for Document {
    fn from(answer: Answer) -> Document {
        let outcome = match answer {
            Ok(response) => Outcome::Answer(response),
            Err(refusal) => Outcome::Error(refusal),
        };
        Document { format_version: FORMAT_VERSION.to_owned(), outcome }
    }
}

impl From<Document> for Answer {
    fn from(document: Document) -> Answer {
        match document.outcome {
            Outcome::Answer(response) => Ok(response),
            Outcome::Error(refusal) => Err(refusal),
        }
    }
}
