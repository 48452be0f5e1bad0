//! A page for each command, and one for all.

use std::io;

use clap::Command;
use clap_mangen::Man;

use super::{COMMANDS, FILES, GUIDES, MANUAL, Page, guide, see_also, source, terms};

/// What the page of all commands is called.
const ALL: &str = "weavers";

const EXIT_STATUS: [(&str, &str); 8] = [
    ("0", "Success. plan: nothing to do. status --check: converged."),
    (
        "1",
        "Error. plan: something was not read, so there may be more to do, and its document has complete: false.",
    ),
    (
        "2",
        "Only with --detailed-exitcode: changes pending, or made; the file is not in force, or was adopted.",
    ),
    ("3", "status --check: running, not converged."),
    ("4", "The daemon cannot be reached."),
    ("5", "Refused for safety."),
    ("64", "Bad command line."),
    ("78", "Invalid configuration. The service manager does not start the daemon again by itself."),
];
const SIGNALS: [(&str, &str); 2] = [
    (
        "SIGHUP",
        "The daemon adopts the configuration file. A bad file changes nothing, and is named by weavers status.",
    ),
    ("SIGTERM, SIGINT", "The daemon ends. Links, rules and routes stay, and packets flow."),
];
const FILES_OF_IT: [(&str, &str); 6] = [
    ("/etc/weave/weave.toml", "The configuration, see weave.toml(5)."),
    ("/etc/weave/conf.d/*.toml", "Its drop-ins, merged over it in the order of their names."),
    (
        "/var/lib/weave/weave.redb",
        "What survives a restart: the ring, containers, decisions. Of this host alone: it is not copied to another.",
    ),
    ("/run/weave/weavers.sock", "The control socket."),
    ("/run/docker/plugins/weavers.sock", "Where Docker finds the plugin."),
    ("/opt/cni/bin/weavers", "The CNI plugin."),
];
const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "WEAVERS_CONFIG, WEAVERS_STATE, WEAVERS_SOCKET",
        "What --config, --state and --socket are where they are not given.",
    ),
    ("WEAVERS_LOG", "What the daemon logs, as a filter of tracing: weavers=debug."),
    ("NO_COLOR", "If it is set and not empty, nothing is coloured."),
    ("AWS_*", "Credentials and region, where they do not come from the role of the instance."),
];
const LIFE: [(&str, &str); 5] = [
    (
        "The first hosts",
        "Each lists the others in peers. Once most of those expected hear each other, they divide the range among them: weavers status --wait ready returns.",
    ),
    (
        "One more host",
        "List one or more of the others. It is given a part of the range as soon as it asks for an address.",
    ),
    (
        "A change",
        "Edit weave.toml; weavers plan shows what that changes; weavers apply adopts it, with --confirm-timeout until weavers confirm only.",
    ),
    ("A host that goes", "weavers drain gives its ranges to others; weavers reset undoes everything on it."),
    (
        "A host that died",
        "Where EC2 says that its instance is gone, the others take over its ranges after [vpc] reclaim; otherwise weavers forget does.",
    ),
];

/// All pages.
pub(super) fn pages(all: Command, date: &str) -> io::Result<Vec<Page>> {
    let mut all = all;
    all.build();
    let names: Vec<(String, &str)> = shown(&all, ALL).map(|(name, _)| (name, COMMANDS)).collect();
    let mut pages = vec![of_all(&all, &names, date)?];
    add(&all, ALL, date, &mut pages)?;
    Ok(pages)
}

/// Commands that people type.
fn shown<'a>(of: &'a Command, path: &'a str) -> impl Iterator<Item = (String, &'a Command)> {
    let seen = of.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    seen.map(move |command| (format!("{path}-{}", command.get_name()), command))
}

fn add(of: &Command, path: &str, date: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    for (name, command) in shown(of, path) {
        pages.push(of_one(command, &name, date)?);
        add(command, &name, date, pages)?;
    }
    Ok(())
}

fn man(command: Command, name: &str, date: &str) -> Man {
    Man::new(command).title(name.to_owned()).section(COMMANDS).date(date).source(source()).manual(MANUAL)
}

/// Options that all commands know stand in the page of all.
fn of_one(command: &Command, name: &str, date: &str) -> io::Result<Page> {
    let own = command.clone().name(name.to_owned()).display_name(name.to_owned());
    let own = own.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    let has_commands = shown(command, name).next().is_some();
    let page = man(own, name, date);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_global_set() && !arg.is_hide_set()) {
        page.render_options_section(&mut text)?;
    }
    if has_commands {
        page.render_subcommands_section(&mut text)?;
    }
    see_also(&[(ALL.to_owned(), COMMANDS), ("weave.toml".to_owned(), FILES)]).to_writer(&mut text)?;
    Ok(Page { name: name.to_owned(), section: COMMANDS, text })
}

fn of_all(all: &Command, names: &[(String, &str)], date: &str) -> io::Result<Page> {
    let page = man(all.clone(), ALL, date);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    terms("LIFE OF A CLUSTER", LIFE).to_writer(&mut text)?;
    page.render_options_section(&mut text)?;
    page.render_subcommands_section(&mut text)?;
    for section in [
        terms("EXIT STATUS", EXIT_STATUS),
        terms("SIGNALS", SIGNALS),
        terms("FILES", FILES_OF_IT),
        terms("ENVIRONMENT", ENVIRONMENT),
    ] {
        section.to_writer(&mut text)?;
    }
    let guides = guide::PAGES.iter().map(|(name, _)| ((*name).to_owned(), GUIDES));
    let others = [("weave.toml".to_owned(), FILES)].into_iter().chain(guides).chain(names.iter().cloned());
    see_also(&others.collect::<Vec<_>>()).to_writer(&mut text)?;
    Ok(Page { name: ALL.to_owned(), section: COMMANDS, text })
}
