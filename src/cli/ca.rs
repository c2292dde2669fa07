//! `trunkline ca`: a CA for a cluster, certificates for its nodes, and what a certificate says.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use trunkline_mesh::{
    CertificateInfo, ClusterId, Datacenter, NodeId, NodeSpec, Revocation, RevocationList, SpiffeId, TlsError,
    read_certificates, read_revocation_lists,
};

use super::failure::Failure;
use super::table::{Align, Table};
use crate::ca::{Authority, CA_DAYS, CaError, Made, NODE_DAYS, init};
use crate::config::units::show_count;
use crate::config::{Config, nearest};

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make a CA: ca.crt and ca.crl, which every node gets, and ca.key, which no node gets
    Init(InitArgs),
    /// Issue certificates to nodes: NODE.crt and NODE.key
    Issue(IssueArgs),
    /// Take certificates back: ca.crl, which every node gets, then has them and all before; without any it is renewed
    Revoke(RevokeArgs),
    /// Show what the certificates and revocation lists of files say, and which the lists take back; exit code 1 if a certificate has
    /// expired or is taken back
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The cluster it is for, as the configuration names it
    #[arg(long, value_name = "ID")]
    cluster: ClusterId,
    /// Where it is kept
    #[arg(long, value_name = "DIR", default_value = "ca")]
    dir: PathBuf,
    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = CA_DAYS, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
}

#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// Where the CA is kept
    #[arg(long, value_name = "DIR", default_value = "ca")]
    dir: PathBuf,
    /// The configuration file: it says which cluster and datacenter a node is of
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cluster", "dc"])]
    config: Option<PathBuf>,
    /// Without --config: the cluster
    #[arg(long, value_name = "ID", requires = "dc", required_unless_present = "config")]
    cluster: Option<ClusterId>,
    /// Without --config: the datacenter
    #[arg(long, value_name = "NAME", requires = "cluster")]
    dc: Option<Datacenter>,
    /// To which nodes: ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "all")]
    node: Vec<NodeId>,
    /// To every node of the configuration
    #[arg(long, requires = "config", conflicts_with_all = ["node", "cluster", "dc"])]
    all: bool,
    /// Addresses at which their admin API is asked, separated by commas, for those who compare them with the certificate; beside
    /// those of `admin` in the configuration
    #[arg(long, value_name = "IPS", value_delimiter = ',', conflicts_with = "all")]
    ip: Vec<IpAddr>,
    /// Where certificates and keys are put [default: where the CA is kept]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long they are valid
    #[arg(long, value_name = "DAYS", default_value_t = NODE_DAYS, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    /// Renew: put new files in the place of those that are there
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// Where the CA is kept, and the list
    #[arg(long, value_name = "DIR", default_value = "ca")]
    dir: PathBuf,
    /// Files with the certificates that are to be taken back, in PEM
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// All certificates that were issued to this node and are still valid, as DIR/issued has them
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
    /// With --node: but for the certificate in this file, which the node has now
    #[arg(long, value_name = "FILE", requires = "node")]
    keep: Option<PathBuf>,
    /// Serial numbers, separated by commas, as `ca show` and `status --json` have them
    #[arg(long, value_name = "HEX", value_delimiter = ',')]
    serial: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Files with certificates or revocation lists in PEM
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

const DAY_S: u64 = 24 * 3600;

pub(super) fn ca(command: &CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Init(args) => {
            let made = init(&args.dir, &args.cluster, args.days)?;
            print(&format!(
                "made the CA of cluster {}, valid until {}\n\n{}\n\
                 Give ca.crt and ca.crl, the list of what it takes back, to every node. Keep ca.key away from all of them: who has it can be any node.\n",
                args.cluster,
                made.info.not_after_text(),
                files(std::slice::from_ref(&made)),
            ))
        }
        CaCommand::Issue(args) => issue(args),
        CaCommand::Revoke(args) => revoke(args),
        CaCommand::Show(args) => show(args),
    }
}

fn issue(args: &IssueArgs) -> Result<(), Failure> {
    let nodes = nodes(args)?;
    let authority = Authority::load(&args.dir)?;
    let out = args.out.as_ref().unwrap_or(&args.dir);
    if !args.replace {
        let is_new = |node: &SpiffeId| authority.check_free(node, out).is_ok();
        let new: Vec<&str> = nodes
            .iter()
            .map(|(node, _)| node)
            .filter(|node| is_new(node))
            .map(|node| node.node.as_str())
            .collect();
        for (node, _) in &nodes {
            authority.check_free(node, out).map_err(|error| match error {
                CaError::Exists { path, .. } if args.all && !new.is_empty() => Failure::Failed(format!(
                    "{} is there already: nothing is overwritten: issue to the new nodes alone with --node {}, or renew all with --replace",
                    path.display(),
                    new.join(","),
                )),
                error => error.into(),
            })?;
        }
    }
    let mut made = Vec::new();
    for (node, admin) in &nodes {
        let addresses: BTreeSet<IpAddr> = args.ip.iter().chain(admin).copied().collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        made.push(authority.issue(node, &addresses, args.days, out, args.replace)?);
    }
    print(&format!(
        "issued {}\n\n{}\nGive each node its own two files, ca.crt and ca.crl, as [security] of the configuration names them.\n",
        show_count(made.len() as u64, "certificate"),
        files(&made),
    ))
}

fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    let authority = Authority::load(&args.dir)?;
    let mut files = args.files.clone();
    if let Some(node) = &args.node {
        let issued = authority.issued_to(node, args.keep.as_deref())?;
        if issued.is_empty() && files.is_empty() && args.serial.is_empty() {
            return print(&format!("took back nothing: {node} has no other certificate that is valid\n"));
        }
        files.extend(issued);
    }
    let taken = authority.revoke(&files, &args.serial)?;
    let (path, count) = (taken.list.display(), taken.total);
    if files.is_empty() && args.serial.is_empty() {
        let taken = show_count(count as u64, "certificate");
        return print(&format!(
            "renewed {path}, which takes back {taken}\n\nGive it to every node, as `crl` in [security].\n"
        ));
    }
    for what in &taken.already {
        print(&format!("{what} was taken back already\n"))?;
    }
    if taken.new == 0 {
        return print(&format!("took back nothing new, {count} in all: {path}\n"));
    }
    print(&format!(
        "took back {}, {count} in all: {path}\n\nGive it to every node, as `crl` in [security]: their links end at the next look.\n",
        show_count(taken.new as u64, "certificate"),
    ))
}

/// Whom to issue to, and where its admin API is asked, as far as a file says so.
fn nodes(args: &IssueArgs) -> Result<Vec<(SpiffeId, Option<IpAddr>)>, Failure> {
    let Some(path) = &args.config else {
        let (Some(cluster), Some(datacenter)) = (&args.cluster, &args.dc) else {
            return Err(Failure::Usage(
                "say which node: with --config, or with --cluster and --dc".to_owned(),
            ));
        };
        let name = |node: &NodeId| {
            let (cluster, datacenter) = (cluster.clone(), datacenter.clone());
            (SpiffeId { cluster, datacenter, node: node.clone() }, None)
        };
        return Ok(args.node.iter().map(name).collect());
    };
    let config = Config::load(path)?;
    let topology = config.topology();
    // Of one that binds all of them, the one that others dial.
    let asked = |node: &NodeSpec| match config.admin(&node.id)?.ip() {
        ip if ip.is_unspecified() => node.address.map(|address| address.ip()),
        ip => Some(ip),
    };
    let name = |node: &NodeSpec| (topology.name(node), asked(node));
    if args.all {
        return Ok(topology.nodes().map(name).collect());
    }
    let listed = |id: &NodeId| {
        topology.node(id).map(name).ok_or_else(|| {
            let near = nearest(id.as_str(), topology.nodes().map(|node| node.id.as_str()));
            let remedy =
                near.map_or("add it to the file".to_owned(), |near| format!("did you mean `{near}`?"));
            Failure::Usage(format!("{}: no node `{id}` is listed: {remedy}", path.display()))
        })
    };
    args.node.iter().map(listed).collect()
}

fn files(made: &[Made]) -> Table {
    let mut table = Table::new(&[
        (Align::Left, "identity"),
        (Align::Left, "certificate"),
        (Align::Left, "key"),
        (Align::Left, "valid until"),
    ]);
    for made in made {
        table.row(vec![
            made.info.uris.join(", "),
            made.certificate.display().to_string(),
            made.key.display().to_string(),
            made.info.not_after_text(),
        ]);
    }
    table
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let mut text = String::new();
    let (mut expired, mut revoked) = (Vec::new(), Vec::new());
    let lists: Vec<RevocationList> =
        args.files.iter().filter_map(|path| read_revocation_lists(path).ok()).flatten().collect();
    for path in &args.files {
        let certificates = match read_certificates(path) {
            // A file has one or the other.
            Err(TlsError::Pem { .. }) if read_revocation_lists(path).is_ok() => {
                for list in read_revocation_lists(path).map_err(unreadable)? {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(&describe_list(path, &list));
                }
                continue;
            }
            read => read.map_err(unreadable)?,
        };
        for info in certificates {
            let left = left(&info);
            if left.is_none() {
                expired.push(path.display().to_string());
            }
            if !text.is_empty() {
                text.push('\n');
            }
            let taken_back = taken_back(&info, &lists);
            revoked.extend(taken_back.map(|_| path.display().to_string()));
            text.push_str(&describe(path, &info, left, taken_back));
        }
    }
    print(&text)?;
    let told = [("expired", expired), ("revoked", revoked)];
    let told = told.iter().filter(|(_, files)| !files.is_empty());
    let told: Vec<String> = told.map(|(what, files)| format!("{what}: {}", files.join(", "))).collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("{}: issue new ones with `trunkline ca`", told.join("; "))))
}

/// By which entry of the lists.
fn taken_back<'l>(info: &CertificateInfo, lists: &'l [RevocationList]) -> Option<&'l Revocation> {
    let own = lists.iter().filter(|list| list.issuer == info.issuer);
    own.flat_map(|list| &list.revoked).find(|revoked| revoked.serial == info.serial)
}

fn describe(
    path: &std::path::Path,
    info: &CertificateInfo,
    left: Option<u64>,
    taken_back: Option<&Revocation>,
) -> String {
    let mut table = Table::new(&[(Align::Left, "file"), (Align::Left, "")]);
    let identity = match info.name() {
        Ok(name) => format!("node {} of datacenter {}, cluster {}", name.node, name.datacenter, name.cluster),
        Err(_) if info.is_ca => "a CA".to_owned(),
        Err(error) => format!("no node: {error}"),
    };
    let validity = match left {
        Some(0) => format!("{} (less than a day left)", info.not_after_text()),
        Some(days) => format!("{} ({} left)", info.not_after_text(), show_count(days, "day")),
        None => format!("{} (expired)", info.not_after_text()),
    };
    let names: Vec<&str> = info.uris.iter().chain(&info.other_names).map(String::as_str).collect();
    let rows = [
        ("identity", identity),
        ("subject", info.subject.clone()),
        ("issuer", info.issuer.clone()),
        ("valid from", info.not_before_text()),
        ("valid until", validity),
        ("names", if names.is_empty() { "none".to_owned() } else { names.join(", ") }),
        ("serial", info.serial.clone()),
        ("fingerprint", format!("SHA-256 {}", info.fingerprint)),
    ];
    let revoked = taken_back.map(|by| ("revoked", format!("since {}", by.since_text())));
    for (what, value) in rows.into_iter().chain(revoked) {
        table.row(vec![what.to_owned(), value]);
    }
    let text = table.to_string();
    // The head names the file that the rows are of.
    text.replacen("file", &path.display().to_string(), 1)
}

fn describe_list(path: &std::path::Path, list: &RevocationList) -> String {
    let mut table = Table::new(&[(Align::Left, "file"), (Align::Left, "")]);
    let taken = show_count(list.revoked.len() as u64, "certificate");
    let mut row = |what: &str, value: String| table.row(vec![what.to_owned(), value]);
    row("identity", format!("a revocation list, which takes back {taken}"));
    row("issuer", list.issuer.clone());
    row("made", list.made_text());
    row("next due", list.next_text().unwrap_or_else(|| "not said".to_owned()));
    for revoked in &list.revoked {
        row("serial", format!("{} since {}", revoked.serial, revoked.since_text()));
    }
    table.to_string().replacen("file", &path.display().to_string(), 1)
}

/// Days until it expires, to the nearest one: what was just made for 365 days has 365. `None` once it has.
pub(super) fn left(info: &CertificateInfo) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = info.not_after_s.checked_sub(i64::try_from(now).unwrap_or(i64::MAX))?;
    u64::try_from(seconds).ok().map(|seconds| (seconds + DAY_S / 2) / DAY_S)
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::shown)
}

fn unreadable(error: TlsError) -> Failure {
    match error {
        TlsError::Read { .. } => Failure::Io(error.to_string()),
        error => Failure::Failed(error.to_string()),
    }
}

impl From<CaError> for Failure {
    fn from(error: CaError) -> Self {
        match error {
            CaError::Certificate(error) => unreadable(error),
            CaError::Io { .. } => Self::Io(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}
