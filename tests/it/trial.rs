//! A configuration that is about to be tried, while others ask for other things.

use std::time::Duration;

use weavers::{
    config::{self, Config},
    node::{
        Input,
        boundary::order::{Order, Terms},
        persist::memory::Trial,
        protocol::request::{RefusalKind, RequestId, Response},
    },
};

use crate::lone_host::Host;

#[test]
fn between_the_saving_of_a_trial_and_its_begin_nothing_else_is_adopted() {
    let mut host = Host::new();
    host.pass(5_000);
    host.answers.clear();
    host.holds_disk = true;
    host.tell(Input::Ordered(order(1, 1400)));
    host.tell(Input::Configured(RequestId(103), Box::new(file(1420))));
    host.tell(Input::Ordered(order(105, 1440)));
    let refused = |answer: &Result<_, weavers::node::protocol::request::Refusal>| {
        answer.as_ref().is_err_and(|refusal| refusal.kind == RefusalKind::Untimely)
    };
    assert_eq!(host.answers.len(), 3, "a reload, and an order, which is told twice: {:?}", host.answers);
    assert!(host.answers.iter().all(refused), "{:?}", host.answers);
    host.saved();
    host.pass(1_000);
    assert!(host.node.status().config.trial_s.is_some());
    host.pass(130_000);
    assert_eq!(host.node.status().config.trial_s, None, "nobody confirmed it");
}

#[test]
fn what_came_into_force_is_told_at_once_and_promised_once_the_disk_has_what_it_rests_on() {
    let mut host = Host::new();
    host.pass(5_000);
    host.holds_disk = true;
    host.attach(1);
    host.tell(Input::Configured(RequestId(103), Box::new(file(1420))));
    assert_eq!((host.adopted.as_slice(), host.answers.len()), ([RequestId(103)].as_slice(), 0));
    host.saved();
    assert_eq!(host.answers.first(), Some(&Ok(Response::Done)));
    host.tell(Input::Ordered(order(1, 1440)));
    host.tell(Input::Configured(RequestId(104), Box::new(file(1400))));
    assert_eq!(host.adopted, [RequestId(103), RequestId(1_001)], "what is refused is not adopted");
}

fn order(id: u64, mtu: u32) -> Box<Order> {
    let record = Trial::of(&"in force".into(), &mtu.to_string().as_str().into());
    let trial = Some(Terms { record, patience: Duration::from_secs(120) });
    let (adopted, done) = (RequestId(1_000 + id), RequestId(1_001 + id));
    Box::new(Order { adopted, done, config: file(mtu), plan: None, trial })
}

fn file(mtu: u32) -> Config {
    let text =
        format!("[ipam]\nrange = '10.32.0.0/12'\n[vpc]\nroute_tables = 'rtb-1'\n[network]\nmtu = {mtu}\n");
    config::parse(&text).unwrap()
}
