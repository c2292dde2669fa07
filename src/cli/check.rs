//! `trunkline check-config`: what is wrong with a file, or what it says, and whether the certificates that it names are good.

use std::io::Write;
use std::path::PathBuf;

use clap::builder::UnknownArgumentValueParser;
use trunkline_mesh::{Credentials, NodeSpec, TlsError, TlsFiles};

use super::ca::left;
use super::environment::variable;
use super::failure::Failure;
use super::node::check_limits;
use super::table::{Align, Table};
use crate::config::units::show_count;
use crate::config::{Config, Protection};

/// A certificate with fewer days left is warned of.
const EXPIRES_SOON_DAYS: u64 = 14;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check the certificate of this node [default: what TRUNKLINE_NODE says, else those of all nodes that are here]
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    // Every other command takes --config, so many will write it here.
    #[arg(
        long = "config",
        value_name = "FILE",
        hide = true,
        value_parser = UnknownArgumentValueParser::suggest("write the file without a flag: trunkline check-config FILE")
    )]
    _config: Option<()>,
}

pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let config = Config::load(&args.file)?;
    let asked = args.node.clone().or_else(|| variable("TRUNKLINE_NODE"));
    let asked = asked.map(|asked| config.find(&asked)).transpose()?;
    let (certificates, mut wrong) = certificates(&config, asked);
    if config.replicas().next().is_some() {
        wrong.extend(check_limits(&config).err());
    }
    if !wrong.is_empty() {
        return Err(Failure::Config(wrong.join("\n")));
    }
    let text = format!("{}{certificates}", describe(&config));
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::shown)
}

/// Those of a node, or of all nodes whose files are here: each is read as the node would read it. Empty without TLS. And what is
/// wrong with them.
fn certificates(config: &Config, asked: Option<&NodeSpec>) -> (String, Vec<String>) {
    let topology = config.topology();
    if !config.tls() {
        return Default::default();
    }
    let candidates: Vec<&NodeSpec> = match asked {
        Some(node) => vec![node],
        None if config.tls_per_node() => topology.nodes().collect(),
        // The file of whichever node this machine is.
        None => topology.nodes().take(1).collect(),
    };
    let mut table = Table::new(&[
        (Align::Left, "node"),
        (Align::Left, "certificate"),
        (Align::Left, "valid until"),
        (Align::Right, "days left"),
        (Align::Left, "issuer"),
    ]);
    let (mut wrong, mut warnings) = (Vec::new(), Vec::new());
    let (mut here, mut elsewhere) = (0, Vec::new());
    for node in candidates {
        let Some(files) = config.tls_files(&node.id) else { continue };
        let is_absent = |path: &PathBuf| path.symlink_metadata().is_err();
        if asked.is_none()
            && config.tls_per_node()
            && [&files.certificate, &files.key].into_iter().all(is_absent)
        {
            elsewhere.push(node.id.to_string());
            continue;
        }
        here += 1;
        let loaded = Credentials::load(&files).and_then(|credentials| {
            let expected = if asked.is_some() || config.tls_per_node() {
                topology.name(node)
            } else {
                topology
                    .node(&credentials.name().node)
                    .map_or_else(|| topology.name(node), |node| topology.name(node))
            };
            credentials.check_name(&expected)?;
            Ok(credentials)
        });
        match loaded {
            Err(error) => {
                let others = unreadable(&files).into_iter().filter(|other| *other != error.to_string());
                let all = std::iter::once(error.to_string()).chain(others);
                wrong.extend(all.map(|error| format!("certificate of {}: {error}", node.id)));
            }
            Ok(credentials) => {
                let info = credentials.info();
                let days = left(info).filter(|days| *days < EXPIRES_SOON_DAYS);
                let soon = days.map(|days| {
                    format!("its certificate expires in {}: issue a new one", show_count(days, "day"))
                });
                let dangers = credentials.dangers().into_iter().chain(soon);
                warnings.extend(dangers.map(|danger| format!("warning: {}: {danger}\n", node.id)));
                table.row(vec![
                    credentials.name().node.to_string(),
                    files.certificate.display().to_string(),
                    info.not_after_text(),
                    left(info).map_or("-".to_owned(), |days| days.to_string()),
                    info.issuer.clone(),
                ]);
            }
        }
    }
    let mut text = if here == 0 { String::new() } else { format!("\n{table}") };
    if !elsewhere.is_empty() {
        let why =
            if here == 0 { "no certificate is here to be checked" } else { "not here, and not checked" };
        text.push_str(&format!("\n{why}: {}\n", elsewhere.join(", ")));
    }
    if !warnings.is_empty() {
        text.push('\n');
        warnings.dedup();
        text.extend(warnings);
    }
    (text, wrong)
}

/// Those of the files that cannot be read, each as it is told: the first that is wrong is not all that is.
fn unreadable(files: &TlsFiles) -> Vec<String> {
    let all = [&files.certificate, &files.key, &files.ca].into_iter().chain(&files.crl);
    let closed = all.filter_map(|path| Some((path, std::fs::File::open(path).err()?)));
    closed.map(|(path, source)| TlsError::Read { path: path.clone(), source }.to_string()).collect()
}

fn describe(config: &Config) -> String {
    let topology = config.topology();
    let datacenters = topology.datacenters();
    let mut sites = Table::new(&[
        (Align::Left, "datacenter"),
        (Align::Right, "origins"),
        (Align::Right, "members"),
        (Align::Right, "proxies"),
    ]);
    let mut columns = vec![
        (Align::Left, "datacenter"),
        (Align::Left, "node"),
        (Align::Left, "roles"),
        (Align::Left, "address"),
        (Align::Left, "listen"),
        (Align::Left, "admin"),
    ];
    let replicas = config.replicas().next().is_some();
    columns.extend(replicas.then_some((Align::Left, "clients")));
    let mut nodes = Table::new(&columns);
    let shown =
        |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |address| address.to_string());
    let protected = |address, protection| match protection {
        Protection::Plaintext => shown(address),
        Protection::Tls => format!("{} within TLS", shown(address)),
    };
    for datacenter in &datacenters {
        let here = || topology.nodes().filter(|node| node.datacenter == *datacenter);
        sites.row(vec![
            datacenter.to_string(),
            here().filter(|node| node.roles.origin).count().to_string(),
            here().filter(|node| node.roles.member).count().to_string(),
            here().filter(|node| node.roles.proxy).count().to_string(),
        ]);
        for node in here() {
            let mut row = vec![
                datacenter.to_string(),
                node.id.to_string(),
                node.roles.to_string(),
                shown(node.address),
                shown(config.listen(&node.id).or(node.address)),
                protected(config.admin(&node.id), config.admin_protection(&node.id)),
            ];
            row.extend(replicas.then(|| protected(config.api(&node.id), config.api_protection(&node.id))));
            nodes.row(row);
        }
    }
    let is_plain = |node: &NodeSpec| {
        config.admin(&node.id).is_some() && config.admin_protection(&node.id) == Protection::Plaintext
    };
    let plaintext_admin = topology.nodes().any(is_plain);
    let links = match (config.tls(), config.insecure()) {
        (true, false) => "links within TLS",
        (true, true) if plaintext_admin => {
            "links within TLS, admin API in plaintext on every address (insecure = true)"
        }
        (true, true) => "links and admin API within TLS",
        (false, true) => "plaintext allowed on every address (insecure = true)",
        (false, false) => "plaintext on loopback only",
    };
    format!(
        "ok: {}\n\ncluster {}: {} in {}, {links}, second stage {}\n\n{sites}\n{nodes}",
        config.path().display(),
        topology.cluster(),
        show_count(topology.nodes().count() as u64, "node"),
        show_count(datacenters.len() as u64, "datacenter"),
        config.second_stage(),
    )
}
