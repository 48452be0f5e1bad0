//! `weavers migrate`: from Weave Net to weavers on this host. Shows what would happen, and with `--yes` does the part of it that can be
//! done now: before weavers was started the store is written, after that containers are reconnected.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Exit, Failure, Global, ask::Daemon, render, run, screen::Screen, validate};
use crate::{
    api::{FORMAT_VERSION, client::ClientError},
    kernel::weave_net,
    migrate::{
        Database, Plan, Survey,
        plan::{Stage, objection},
    },
    node::{
        persist::memory::Memory,
        protocol::{
            request::{Request, Response},
            status::Status,
        },
    },
    peer::{PeerName, PeerUid},
    plan,
    store::{self, Store, StoreError},
};

mod files;
mod reconnect;

/// How long to wait before weavers is asked again whether it has settled.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Data of the Weave Net router; otherwise those that are found in the usual places
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Name of the router, where it was started with --name
    #[arg(long, value_name = "PEER")]
    name: Option<PeerName>,
    /// Do what can be done now: write the store, or with weavers running reconnect the containers
    #[arg(long)]
    yes: bool,
}

/// How far this host is.
enum State {
    /// There is no store, or an empty one.
    Fresh,
    /// The store has what the router knew; weavers is not running.
    Written,
    /// weavers runs on it.
    Runs(Box<Status>),
}

impl Migrate {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let checked = validate::check(&global.config)?;
        let data = files::open(self.database).await?;
        let unreadable =
            |error| Failure::failed(format!("{} cannot be taken over: {error}", data.path.display()));
        let database = Database::read(&data.bytes).map_err(unreadable)?;
        let survey = weave_net::survey().await.map_err(|fault| Failure::failed(fault.message))?;
        if let Some(refusal) = objection(&database, &survey, &checked.config, self.name) {
            return Err(refusal.into());
        }
        let state = state(global, database.name).await?;
        let plan = Plan::new(&database, &survey, &state.stage());
        match (self.yes, &state) {
            (false, _) => {
                let then = then(global, &state, &plan, &database).await?;
                screen.answer(|| document(&plan, &state, &then), || text(&plan, &state, &then, &survey));
            }
            (true, State::Fresh) => {
                write(global, &plan, &database)?;
                screen.answer(
                    || document(&plan, &State::Written, &None),
                    || next(&State::Written, &plan, &survey),
                );
            }
            (true, State::Written) => {
                screen.answer(|| document(&plan, &state, &None), || next(&state, &plan, &survey));
            }
            (true, State::Runs(_)) => return reconnect_all(global, screen, &plan, &survey).await,
        }
        Ok(Exit::Success)
    }
}

impl State {
    fn stage(&self) -> Stage {
        match self {
            State::Fresh => Stage::Before,
            State::Written => Stage::TakenOver([].into()),
            State::Runs(status) => {
                Stage::TakenOver(status.attachments.iter().filter_map(|one| one.address).collect())
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            State::Fresh => "before",
            State::Written => "written",
            State::Runs(_) => "running",
        }
    }
}

/// What there is of weavers here. What is another peer's is not overwritten.
async fn state(global: &Global, name: PeerName) -> Result<State, Failure> {
    let other = |found: String| {
        let message = format!("{found}, and the data are those of {name}");
        Failure::harmful(message).hint(
            "take over before weavers is started for the first time: run `weavers reset`, which gives its ranges away, then this again",
        )
    };
    match Daemon::new(global).node(Request::Status).await {
        Ok(Response::Status(status)) if status.name == name => return Ok(State::Runs(status)),
        Ok(Response::Status(status)) => {
            return Err(other(format!("weavers runs here as peer {}", status.name)));
        }
        Ok(answer) => return Err(super::ask::unexpected(&answer)),
        Err(ClientError::Unreachable { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let path = global.state.join(store::FILE_NAME);
    if !path.exists() {
        return Ok(State::Fresh);
    }
    let records = Store::open(&path).and_then(|store| store.load()).map_err(store_failure)?;
    if records.is_empty() {
        return Ok(State::Fresh);
    }
    let memory =
        Memory::read(&records).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    match memory.identity {
        Some(identity) if identity.name == name && memory.ipam.ring.is_some() => Ok(State::Written),
        Some(identity) => {
            Err(other(format!("the store {} is that of peer {}", path.display(), identity.name)))
        }
        None => Err(other(format!("the store {} is not empty", path.display()))),
    }
}

/// What weavers would do on this host and in EC2 once it has taken over, without the containers.
async fn then(
    global: &Global,
    state: &State,
    plan: &Plan,
    database: &Database,
) -> Result<Option<plan::Plan>, Failure> {
    match state {
        State::Fresh => {
            let records = plan.records(database, PeerUid(1)).into_iter();
            let records = records.filter_map(|write| Some((write.key, write.value?))).collect();
            let memory = Memory::read(&records).map_err(|error| Failure::failed(error.to_string()))?;
            let planned = crate::daemon::plan_offline(run::options(global), Some(memory)).await;
            planned.map(Some).map_err(run::failure)
        }
        State::Written | State::Runs(_) => Ok(None),
    }
}

/// All of it, or nothing.
fn write(global: &Global, plan: &Plan, database: &Database) -> Result<(), Failure> {
    let store = Store::open(&global.state.join(store::FILE_NAME)).map_err(store_failure)?;
    // Somebody may have come first since it was looked at.
    if !store.load().map_err(store_failure)?.is_empty() {
        return Err(Failure::failed("the store was written meanwhile").hint("run `weavers migrate` again"));
    }
    let acceptor = PeerUid(rand::random::<u64>().max(1));
    store.write(&plan.records(database, acceptor)).map_err(store_failure)
}

fn store_failure(error: StoreError) -> Failure {
    let failure = Failure::failed(error.in_full());
    Failure { hint: error.hint(), ..failure }
}

/// Waits until weavers has nothing left to do on this host and in EC2, so that a container is reached as soon as it has its link. Ready it
/// is not yet: it hands nothing out beneath the routes of Weave Net, which other containers need until they are reconnected.
async fn settled(global: &Global) -> Result<(), Failure> {
    let daemon = Daemon::new(global);
    let begun = Instant::now();
    loop {
        let planned = match daemon.node(Request::Plan).await? {
            Response::Plan(planned) => planned,
            other => return Err(super::ask::unexpected(&other)),
        };
        let steps = planned.changes.len() + planned.refused.len();
        if planned.is_complete() && steps == 0 {
            return Ok(());
        }
        if begun.elapsed() + PAUSE > global.timeout {
            let message = match planned.is_complete() {
                true => {
                    format!("weavers has steps left to take ({steps}), so that no container would be reached")
                }
                false => "weavers cannot read everything, so that no container may be reached".to_owned(),
            };
            return Err(Failure::failed(message).hint("see `weavers plan`"));
        }
        sleep(PAUSE).await;
    }
}

/// One after the other, and no further than the first that fails.
async fn reconnect_all(
    global: &Global,
    screen: &Screen,
    plan: &Plan,
    survey: &Survey,
) -> Result<Exit, Failure> {
    let mut moved = Vec::new();
    if plan.moves().next().is_some() {
        settled(global).await?;
    }
    for (address, ident, link) in plan.moves() {
        let gap = reconnect::reconnect(global, address, ident, link).await.map_err(|failed| {
            let message = format!("{address} of `{ident}` is not reconnected: {}", failed.message);
            Failure { message, ..failed }
        })?;
        let gap_ms = gap.as_secs_f64() * 1000.0;
        if !screen.json {
            screen.say(format!("{address} of {ident}: reconnected, {gap_ms:.1} ms without a link"));
        }
        moved.push(json!({ "address": address, "ident": ident, "gap_ms": gap_ms }));
    }
    let count = moved.len();
    screen.answer(
        || json!({ "format_version": FORMAT_VERSION, "reconnected": moved, "left": render::migrate::left(survey) }),
        || render::migrate::done(count, survey.links.len() - count, survey),
    );
    Ok(Exit::Success)
}

fn document(plan: &Plan, state: &State, then: &Option<plan::Plan>) -> Value {
    let mut document = json!({ "format_version": FORMAT_VERSION, "state": state.name(), "migration": plan });
    if let Some(then) = then {
        document["plan"] = render::plan::document(then);
    }
    document
}

fn text(plan: &Plan, state: &State, then: &Option<plan::Plan>, survey: &Survey) -> String {
    let then =
        then.as_ref().map(|then| format!("\nThen weavers, once started:\n{}\n", render::plan::pending(then)));
    format!("{}{}\n{}", render::migrate::sheet(plan), then.unwrap_or_default(), next(state, plan, survey))
}

/// What to type next.
fn next(state: &State, plan: &Plan, survey: &Survey) -> String {
    match state {
        State::Fresh => {
            "`weavers migrate --yes` writes the store; Weave Net's files stay as they are.".to_owned()
        }
        State::Written => {
            "The store is written. Start weavers (`systemctl start weavers`), then reconnect the \
                           containers: `weavers migrate --yes`."
                .to_owned()
        }
        State::Runs(_) if plan.moves().next().is_some() => {
            "`weavers migrate --yes` reconnects these containers, one after the other.".to_owned()
        }
        State::Runs(_) => render::migrate::done(0, survey.links.len(), survey),
    }
}
