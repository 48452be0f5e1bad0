//! Beside the loop: the socket that Docker calls, and what Docker itself says from time to time.
//!
//! Docker is never asked within a call of its own: while it starts it answers nobody.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::systemd;
use crate::{
    api::{
        self, ApiRequest, client,
        server::{Call, Socket, hand_over},
    },
    config,
    docker::{DRIVER, PLUGIN, told},
    node::protocol::{
        docker::{Order, Told},
        request::{Request, Response},
    },
};

/// How often it is looked whether there is a Docker by now.
const LOOKS: Duration = Duration::from_secs(2);
/// How often Docker is asked what it knows.
const ASKS: Duration = Duration::from_secs(10);
/// How long it may take for all of that.
const PATIENCE: Duration = Duration::from_secs(30);
/// Networks that are asked about.
const NETWORKS_MAX: usize = 1000;
/// A network with all containers that a host can bear.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Serves Docker, if it is to be served, and asks it from time to time.
pub(super) fn start(config: &config::Docker, calls: &mpsc::Sender<Call>) {
    let (path, always) = match &config.plugin {
        config::Plugin::Off => return,
        config::Plugin::Auto => (PathBuf::from(PLUGIN), false),
        config::Plugin::At(path) => (path.clone(), true),
    };
    let driver = path.file_stem().and_then(|name| name.to_str()).unwrap_or(DRIVER).to_owned();
    tokio::spawn(serve(path, always, calls.clone()));
    tokio::spawn(ask_again_and_again(config.socket.clone(), driver, calls.clone()));
}

/// By the socket that the service manager has opened, or else by one of ours, as soon as there is a Docker to call it.
async fn serve(path: PathBuf, always: bool, calls: mpsc::Sender<Call>) {
    let served = match systemd::listener() {
        Some(listener) => api::docker::serve(listener, calls).await,
        None => api::docker::serve(bound(&path, always).await, calls).await,
    };
    if let Err(error) = served {
        warn!(%error, "the socket for Docker is not served any more");
    }
}

async fn bound(path: &Path, always: bool) -> Socket {
    let is_there = || always || path.ancestors().nth(2).is_some_and(Path::is_dir);
    let mut said = String::new();
    loop {
        if is_there() {
            match Socket::bind(path).await {
                Ok(socket) => {
                    info!(path = %path.display(), "the socket for Docker is served");
                    return socket;
                }
                Err(error) if said != format!("{error:#}") => {
                    said = format!("{error:#}");
                    warn!(error = said, "the socket for Docker cannot be served");
                }
                Err(_) => {}
            }
        }
        sleep(LOOKS).await;
    }
}

async fn ask_again_and_again(socket: PathBuf, driver: String, calls: mpsc::Sender<Call>) {
    let mut ticks = interval(ASKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ask = |order| hand_over(&calls, ApiRequest::Node(Request::Docker(order)));
        match ask(Order::Pending).await {
            Ok(Response::Done) => {}
            Ok(_) => continue,
            Err(_) if calls.is_closed() => return,
            Err(_) => continue,
        }
        match timeout(PATIENCE, look(&socket, &driver)).await {
            // The loop is gone only when the daemon stops.
            Ok(Ok(told)) => drop(ask(Order::Told(told)).await),
            Ok(Err(why)) => debug!(why, "Docker does not say what it knows"),
            Err(_) => debug!("Docker does not say in time what it knows"),
        }
    }
}

/// All that Docker knows of our networks, or nothing.
async fn look(socket: &Path, driver: &str) -> Result<Vec<Told>, String> {
    let get = async |path: String| {
        client::get(socket, &path, ANSWER_BYTES_MAX).await.map_err(|error| format!("{path}: {error}"))
    };
    let ids = told::ids(driver, &get(told::list_of(driver)).await?)?;
    if ids.len() > NETWORKS_MAX {
        return Err(format!("there are more than {NETWORKS_MAX} networks"));
    }
    let mut all = Vec::new();
    for id in ids {
        all.push(told::network(&get(told::about(&id)).await?)?);
    }
    Ok(all)
}
