//! `trunkline proxy` and `trunkline member`: a node from its start to its drained end.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use trunkline_mesh::{Inbox, Mesh, NodeSpec, join};

use super::NodeArgs;
use super::failure::Failure;
use super::log::Log;
use super::members::Members;
use super::notify::Notifier;
use super::output::{Format, Output};
use super::reload::Following;
use super::signal::{Hangup, Stop};
use crate::api::{self, Api, Beside, Refusal};
use crate::config::{Config, Protection, Role};

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Where a member writes what it receives: a file to append to, or - for standard output [default: -]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How it is written [default: plain]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// Time to write what is left in the inbox after the node has closed.
const LAST_WRITES: Duration = Duration::from_millis(500);

pub(super) async fn run(args: RunArgs, role: Role, log: &Log) -> Result<(), Failure> {
    let config = Config::load(&args.node.config)?;
    log.follow(config.log_level());
    let node = &config.choose(args.node.asked().as_deref(), role)?.clone();
    let output = output(&args, node)?;
    let (mut stop, hangup) = (Stop::listen()?, Hangup::listen()?);
    log.tell_what_is_left_out();
    let (client, inbox) = join(config.mesh(node)).await?;
    let mesh = client.mesh().clone();
    // A member that is no proxy serves nobody but itself.
    let members = node.roles.proxy.then(|| Members::of(&config, node, mesh.clone()));
    let heard = members.clone().map(|members| Box::new(move || members.heard()) as _);
    let refusal = Refusal::default();
    let beside = Beside { heard, refusal: Some(refusal.clone()), ..Beside::default() };
    let api = serve_admin_with(&config, node, &mesh, beside)?;
    let line = announce(&config, node, &mesh, api.as_ref());
    let notifier = Notifier::from_environment();
    let mut writer = Writer::start(output, inbox);
    notifier.ready(&line);
    notifier.watch(&mesh);

    let (file, id) = (args.node.config.clone(), node.id.clone());
    let asking = members.as_ref().map(Members::ask);
    let following = Following::new(hangup, file, config, id, mesh.clone(), log);
    let mut following = following.with_members(members).with_refusal(refusal);
    let outcome = loop {
        tokio::select! {
            name = stop.signal() => {
                tracing::info!("{name}: draining");
                break Ok(());
            }
            () = following.step(&notifier, &line) => {}
            failure = writer.fails() => break Err(failure),
            () = mesh.closed() => {
                break Err(Failure::Failed("the mesh ended by itself; the log says why".to_owned()));
            }
        }
    };
    stop.exit_on_next();
    notifier.stopping();
    drop(asking);
    // First nobody is to send new work here, then what is here is finished.
    if let Some(api) = &api {
        api.set_draining();
    }
    let drained = mesh.drain().await;
    let written = writer.finish().await;
    if let Some(api) = api {
        api.close().await;
    }
    outcome.and(written)?;
    if !drained {
        let why = "not drained within `drain_timeout`: what was under way is lost here, and its senders try other ways";
        return Err(Failure::Failed(why.to_owned()));
    }
    tracing::info!("stopped");
    Ok(())
}

/// The admin API of a node that has an address for it in the file, whatever the process does besides.
pub(super) fn serve_admin(config: &Config, node: &NodeSpec, mesh: &Mesh) -> Result<Option<Api>, Failure> {
    serve_admin_with(config, node, mesh, Beside::default())
}

/// The same, of a node that has more than its mesh.
pub(super) fn serve_admin_with(
    config: &Config,
    node: &NodeSpec,
    mesh: &Mesh,
    beside: Beside,
) -> Result<Option<Api>, Failure> {
    let protection = config.admin_protection(&node.id);
    let serve = |address| api::serve_with(address, protection, mesh.clone(), node, beside);
    Ok(config.admin(&node.id).map(serve).transpose()?)
}

fn output(args: &RunArgs, node: &NodeSpec) -> Result<Option<Output>, Failure> {
    if !node.roles.member {
        let flag = match (&args.output, args.format) {
            (None, None) => return Ok(None),
            (Some(_), _) => "--output",
            (None, Some(_)) => "--format",
        };
        let why = format!("node `{}` is no member and receives nothing: remove {flag}", node.id);
        return Err(Failure::Usage(why));
    }
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from("-"));
    Output::open(&path, args.format.unwrap_or(Format::Plain)).map(Some)
}

/// Where callers find a node's admin API.
pub(super) fn admin_url(config: &Config, node: &NodeSpec, api: &Api) -> String {
    let within_tls = config.admin_protection(&node.id) == Protection::Tls;
    format!("{}://{}", if within_tls { "https" } else { "http" }, api.address())
}

/// One line: what, where it listens, where it is watched.
fn announce(config: &Config, node: &NodeSpec, mesh: &Mesh, api: Option<&Api>) -> String {
    let listens = mesh.local_addr().map_or("nowhere".to_owned(), |address| address.to_string());
    let admin =
        api.map_or("no admin API".to_owned(), |api| format!("admin API on {}", admin_url(config, node, api)));
    let line = format!(
        "{} {} of datacenter {}, cluster {}, listens on {listens}, {admin}",
        node.roles,
        node.id,
        node.datacenter,
        config.topology().cluster(),
    );
    tracing::info!("{line}");
    // Of the links the mesh says it.
    if config.insecure() && config.admin_protection(&node.id) == Protection::Plaintext {
        tracing::warn!("insecure = true: the admin API is plaintext and unauthenticated");
    }
    line
}

/// The task that empties the inbox, if there is one to empty.
struct Writer(Option<JoinHandle<Result<(), Failure>>>);

impl Writer {
    fn start(output: Option<Output>, inbox: Inbox) -> Self {
        Self(output.map(|output| tokio::spawn(output.write_all(inbox))))
    }

    /// Returns only if writing fails.
    async fn fails(&mut self) -> Failure {
        if let Some(task) = &mut self.0 {
            let ended = task.await;
            self.0 = None;
            if let Err(failure) = flat(ended) {
                return failure;
            }
        }
        std::future::pending().await
    }

    /// Waits until everything is written.
    async fn finish(self) -> Result<(), Failure> {
        let Some(task) = self.0 else { return Ok(()) };
        match timeout(LAST_WRITES, task).await {
            Ok(ended) => flat(ended),
            Err(_) => Err(Failure::Io(
                "the output takes nothing: messages were taken and are not written".to_owned(),
            )),
        }
    }
}

fn flat(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|error| Err(Failure::Failed(format!("the writer ended badly: {error}"))))
}
