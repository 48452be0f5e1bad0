//! The daemon's side: takes calls off the socket and hands them to the loop.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response as HttpResponse},
    routing::any,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
};
use tracing::debug;

use super::{Answer, ApiRequest, Document, wire};
use crate::node::request::{Refusal, RefusalKind};

/// A configuration file with room for its escapes, or a plan of some thousand steps.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Calls that wait for an answer at one time.
const CALLS_MAX: usize = 64;
/// Read and write for the owner and the group.
const MODE: u32 = 0o660;

/// A request on its way to the loop.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: ApiRequest,
    /// Where the answer goes. `reply.closed()` ends when the caller has gone away.
    pub reply: oneshot::Sender<Answer>,
}

/// The control socket, bound. Its file goes when this goes.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: File,
}

/// The file of the socket, known by more than its path: another daemon may have put its own there.
#[derive(Debug)]
struct File {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds `path`. A file that a dead daemon left behind is replaced; a living one is left alone.
    pub async fn bind(path: &Path) -> anyhow::Result<Socket> {
        reject_occupied(path).await?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("directory {} cannot be made", directory.display()))?;
        }
        // Renamed into place, so that it is never there with other permissions.
        let fresh = path.with_extension("new");
        remove(&fresh)?;
        let listener = UnixListener::bind(&fresh)
            .with_context(|| format!("socket {} cannot be bound", path.display()))?;
        let settled = || -> io::Result<u64> {
            fs::set_permissions(&fresh, fs::Permissions::from_mode(MODE))?;
            fs::rename(&fresh, path)?;
            Ok(fs::symlink_metadata(path)?.ino())
        };
        let inode = settled().with_context(|| format!("socket {} cannot be put in place", path.display()))?;
        Ok(Socket { listener, file: File { path: path.to_owned(), inode } })
    }

    /// Serves until dropped, or until the loop no longer takes calls and whoever waits has been answered.
    pub async fn serve(self, calls: mpsc::Sender<Call>) -> io::Result<()> {
        let Socket { listener, file: _file } = self;
        let door = Door { calls: calls.clone(), places: Arc::new(Semaphore::new(CALLS_MAX)) };
        let router = Router::new()
            .route("/v1/{name}", any(ask))
            .fallback(unknown)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(door);
        let closed = async move { calls.closed().await };
        axum::serve(listener, router).with_graceful_shutdown(closed).await
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

async fn reject_occupied(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            bail!("{} is not a socket: move it away", path.display())
        }
        Ok(_) => {}
        Err(_) => return Ok(()),
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another weavers is running: it answers on {}", path.display());
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

// ===== a call =====

#[derive(Clone)]
struct Door {
    calls: mpsc::Sender<Call>,
    places: Arc<Semaphore>,
}

/// Dropped by hyper when the caller hangs up, and the reply's receiver with it.
async fn ask(
    State(door): State<Door>,
    method: Method,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> HttpResponse {
    let Ok(_place) = door.places.try_acquire() else {
        let refusal = Refusal::new(RefusalKind::Failed, format!("{CALLS_MAX} calls are waiting already"));
        return reply(Err(refusal.hint("try again later")));
    };
    debug!(%method, name, "call");
    match wire::decode(&method, &name, &body) {
        Ok(request) => reply(hand_over(&door.calls, request).await),
        Err(refusal) => reply(Err(refusal)),
    }
}

async fn hand_over(calls: &mpsc::Sender<Call>, request: ApiRequest) -> Answer {
    let leaving = || Refusal::new(RefusalKind::Failed, "the daemon is stopping");
    let (sender, answer) = oneshot::channel();
    calls.send(Call { request, reply: sender }).await.map_err(|_| leaving())?;
    answer.await.unwrap_or_else(|_| Err(leaving()))
}

async fn unknown() -> HttpResponse {
    reply(Err(Refusal::new(RefusalKind::NotFound, "no such call: calls are /v1/ and a name")))
}

fn reply(answer: Answer) -> HttpResponse {
    let status = match answer.as_ref().map_err(|refusal| refusal.kind) {
        Ok(_) => StatusCode::OK,
        Err(RefusalKind::Invalid | RefusalKind::Config) => StatusCode::BAD_REQUEST,
        Err(RefusalKind::NotFound) => StatusCode::NOT_FOUND,
        Err(RefusalKind::Unsafe | RefusalKind::Untimely) => StatusCode::CONFLICT,
        Err(RefusalKind::Failed) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(Document::from(answer))).into_response()
}
