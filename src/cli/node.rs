//! `trunkline node`: a replica from its start to its end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use trunkline_mesh::{Client, ClusterId, Datacenter, Inbox, NodeId, NodeSpec, Roles, Topology, join};

use super::NodeArgs;
use super::failure::Failure;
use super::log::Log;
use super::notify::Notifier;
use super::reload::Following;
use super::run::serve_admin_with;
use super::signal::{Hangup, Stop};
use crate::api::{Beside, Refusal};
use crate::config::{Config, Protection, Role, held};
use crate::consensus::key_value::KeyValue;
use crate::consensus::{OPERATION_BYTES_MAX, Replica, ReplicaConfig, ReplicaId, StartError, Timing};
use crate::http::why_api_not_bound;
use crate::scratch::Scratch;
use crate::service::{Limits, Service};
use crate::storage::StorageError;

#[derive(Debug, clap::Args)]
pub(super) struct NodeCommand {
    /// The configuration file, the same on every node
    #[arg(long, value_name = "FILE", required_unless_present = "dev")]
    config: Option<PathBuf>,
    /// Which node of the file this process is [default: what TRUNKLINE_NODE says, else the only one that is a member]
    #[arg(long, value_name = "ID", conflicts_with = "dev")]
    node: Option<String>,
    /// A cluster of this process alone, with no file at all
    #[arg(long, conflicts_with = "config")]
    dev: bool,
    /// Where that cluster keeps its data [default: a directory that is removed at the end]
    #[arg(long, value_name = "DIR", requires = "dev")]
    data: Option<PathBuf>,
    /// Where it serves clients
    #[arg(long, value_name = "ADDRESS", requires = "dev", default_value = "127.0.0.1:7480")]
    api: SocketAddr,
}

/// What a node is run with, from a file or without one.
struct Plan {
    mesh: trunkline_mesh::Config,
    data: PathBuf,
    founders: Vec<NodeId>,
    timing: Timing,
    api: Option<(SocketAddr, Protection)>,
}

pub(super) async fn node(args: NodeCommand, log: &Log) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    // Removed when this ends.
    let scratch;
    // With a file, SIGHUP has it read again. Without one it ends the process, as nobody catches it.
    let (plan, mut file) = if args.dev {
        let data = match args.data {
            Some(data) => data,
            None => {
                scratch = Scratch::new().map_err(|error| Failure::Io(error.to_string()))?;
                scratch.path().to_owned()
            }
        };
        (dev(data, args.api)?, None)
    } else {
        let hangup = Hangup::listen()?;
        let path = args.config.unwrap_or_default();
        let config = Config::load(&path)?;
        log.follow(config.log_level());
        let args = NodeArgs { config: PathBuf::new(), node: args.node };
        // Whatever roles the node that was named has: all that it lacks is told at once.
        let spec = match args.asked() {
            Some(asked) => config.find(&asked)?,
            None => config.choose(None, Role::Member)?,
        };
        (of_file(&config, spec)?, Some((hangup, path, config)))
    };
    log.tell_what_is_left_out();
    let name = plan.mesh.node.clone();
    let spec = plan.mesh.topology.node(&name).cloned();
    let (client, inbox) = join(plan.mesh).await?;
    let mesh = client.mesh().clone();
    let config_of_replica = ReplicaConfig { data: plan.data, founders: plan.founders, timing: plan.timing };
    let replica = start(config_of_replica, client, inbox, &name).await?;
    let refusal = Refusal::default();
    let admin = match (&file, &spec) {
        (Some((_, _, config)), Some(spec)) => {
            let (replica, refusal) = (Some(replica.clone()), Some(refusal.clone()));
            let beside = Beside { replica, refusal, ..Beside::default() };
            serve_admin_with(config, spec, &mesh, beside)?
        }
        _ => None,
    };
    let service = match plan.api {
        None => None,
        Some((address, protection)) => {
            let (mesh, replica, limits) = (mesh.clone(), replica.clone(), Limits::default());
            let bound = Service::bind(address, protection, mesh, replica, name.clone(), limits);
            Some(bound.map_err(|error| {
                let remedy = why_api_not_bound(&error, "api");
                Failure::Unavailable(format!("cannot serve clients on {address}: {error}: {remedy}"))
            })?)
        }
    };
    let clients = service.as_ref().map_or("no API for clients".to_owned(), |service| {
        format!("serves clients on {}", service.address())
    });
    let line = format!("replica {} on node {name}, {clients}", replica.status().replica);
    tracing::info!("{line}");
    let notifier = Notifier::from_environment();
    notifier.ready(&line);
    notifier.watch(&mesh);

    let mut following = file.take().map(|(hangup, path, config)| {
        let following = Following::new(hangup, path, config, name, mesh.clone(), log);
        following.with_replica(replica.clone()).with_refusal(refusal)
    });
    let outcome = loop {
        tokio::select! {
            signal = stop.signal() => {
                tracing::info!("{signal}: stopping");
                break Ok(());
            }
            () = step(&mut following, &notifier, &line) => {}
            why = replica.stopped() => {
                break Err(Failure::Failed(format!("the consensus engine stopped: {why}")));
            }
            () = mesh.closed() => {
                break Err(Failure::Failed("the mesh ended by itself; the log says why".to_owned()));
            }
        }
    };
    stop.exit_on_next();
    notifier.stopping();
    if let Some(admin) = &admin {
        admin.set_draining();
    }
    if let Some(service) = &service {
        service.set_draining();
    }
    if outcome.is_ok() {
        // Clients are served meanwhile.
        match replica.hand_over().await {
            Ok(Some(next)) => tracing::info!("handed over to replica {next}"),
            Ok(None) => {}
            Err(error) => tracing::warn!("stops without having handed over: {error}"),
        }
    }
    if let Some(service) = service {
        service.close().await;
    }
    replica.stop().await;
    // What is not drained then is of a replica that is over, and nobody waits for it; the mesh tells of it.
    mesh.drain().await;
    if let Some(admin) = admin {
        admin.close().await;
    }
    outcome?;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for ever without a file.
async fn step(following: &mut Option<Following<'_>>, notifier: &Notifier, line: &str) {
    match following {
        Some(following) => following.step(notifier, line).await,
        None => std::future::pending().await,
    }
}

async fn start(
    config: ReplicaConfig,
    client: Client,
    inbox: Inbox,
    node: &NodeId,
) -> Result<Replica<KeyValue>, Failure> {
    Replica::start(config, KeyValue::default(), client, inbox, node).await.map_err(|error| match error {
        StartError::Storage(storage) => of_storage(&storage),
        StartError::State(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(storage) => of_storage(storage),
            None if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                Failure::Corrupt(format!("the state cannot be built up: {error}"))
            }
            // Such as a thread that the system does not start.
            None => Failure::Failed(error.to_string()),
        },
        StartError::Roles { .. } | StartError::Timing { .. } => Failure::Config(error.to_string()),
        error => Failure::Failed(error.to_string()),
    })
}

fn of_storage(error: &StorageError) -> Failure {
    match error {
        StorageError::Corrupt { .. } => Failure::Corrupt(format!(
            "{error}: this node must not go on with it. Look with `trunkline log verify`; take the node out, and let it come \
             back with an empty directory"
        )),
        StorageError::LogGone { replica } => {
            let number = ReplicaId(*replica);
            Failure::Corrupt(format!(
                "{error}: `add` the node, `remove` replica {number}, `promote` the new one"
            ))
        }
        StorageError::SnapshotsGone { .. } => Failure::Corrupt(error.to_string()),
        StorageError::Locked { .. } => {
            Failure::Unavailable(format!("{error}: stop it, or name another directory"))
        }
        StorageError::Foreign { .. } => {
            Failure::Config(format!("{error}: name the directory that belongs to this node"))
        }
        _ => Failure::Io(error.to_string()),
    }
}

fn of_file(config: &Config, spec: &NodeSpec) -> Result<Plan, Failure> {
    let roles = spec.roles;
    let data = match config.data(&spec.id) {
        Some(data) if roles.origin && roles.member => data,
        data => {
            let lacking = [
                (data.is_none(), "`data`, the directory for its log"),
                (!roles.origin, "the role \"origin\""),
                (!roles.member, "the role \"member\""),
            ];
            let lacking: Vec<&str> =
                lacking.iter().filter(|(lacks, _)| *lacks).map(|(_, what)| *what).collect();
            return Err(Failure::Config(format!(
                "{}:{}: node `{}` has {} and is no replica: it lacks {}; add that, or name another node with --node",
                config.path().display(),
                config.line(&spec.id).unwrap_or_default(),
                spec.id,
                held(roles),
                lacking.join(", "),
            )));
        }
    };
    check_limits(config).map_err(Failure::Config)?;
    Ok(Plan {
        mesh: config.mesh(spec),
        data,
        founders: config.replicas().cloned().collect(),
        timing: config.timing(),
        api: config.api(&spec.id).map(|address| (address, config.api_protection(&spec.id))),
    })
}

/// Whether what replicas send each other fits into a file's limits; else what to change.
pub(super) fn check_limits(config: &Config) -> Result<(), String> {
    let (least, settings) = (2 * OPERATION_BYTES_MAX, config.settings());
    if settings.message_bytes_max < least || settings.destination_budget_bytes < 2 * least {
        return Err(format!(
            "{}: replicas need [limits] message_bytes_max of at least {} MiB and destination_budget_bytes of at least {} MiB: \
             a message carries an operation of up to {} MiB, and several are under way",
            config.path().display(),
            least >> 20,
            (2 * least) >> 20,
            OPERATION_BYTES_MAX >> 20,
        ));
    }
    Ok(())
}

/// A cluster of one node that nobody else can reach.
fn dev(data: PathBuf, api: SocketAddr) -> Result<Plan, Failure> {
    if !api.ip().to_canonical().is_loopback() {
        return Err(Failure::Usage(format!(
            "--dev serves clients on loopback alone, without any protection, and {api} is not: use a file"
        )));
    }
    let name = |error: trunkline_mesh::NameError| Failure::Failed(error.to_string());
    let id = NodeId::new("dev").map_err(name)?;
    // Nobody dials it: any address that is free will do.
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let spec = NodeSpec {
        id: id.clone(),
        datacenter: Datacenter::new("dev").map_err(name)?,
        roles: Roles { origin: true, member: true, proxy: false },
        address: Some(address),
    };
    let topology = Topology::new(ClusterId::new("dev").map_err(name)?, [spec]);
    let topology = topology.map_err(|error| Failure::Failed(error.to_string()))?;
    let mesh = trunkline_mesh::Config::new(Arc::new(topology), id.clone());
    Ok(Plan {
        mesh,
        data,
        founders: vec![id],
        timing: Timing::default(),
        api: Some((api, Protection::Plaintext)),
    })
}

fn free_port() -> Result<u16, Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0");
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(|error| Failure::Unavailable(format!("no port is free: {error}")))
}
