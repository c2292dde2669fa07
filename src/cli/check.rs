//! `trunkline check-config`: what is wrong with a file, or what it says.

use std::io::Write;
use std::path::PathBuf;

use clap::builder::UnknownArgumentValueParser;

use super::failure::Failure;
use super::table::{Align, Table};
use crate::config::Config;
use crate::config::units::show_count;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "FILE")]
    file: PathBuf,
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
    std::io::stdout().write_all(describe(&config).as_bytes()).map_err(Failure::stdout)
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
    let mut nodes = Table::new(&[
        (Align::Left, "datacenter"),
        (Align::Left, "node"),
        (Align::Left, "roles"),
        (Align::Left, "address"),
        (Align::Left, "listen"),
        (Align::Left, "admin"),
    ]);
    let shown =
        |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |address| address.to_string());
    for datacenter in &datacenters {
        let here = || topology.nodes().filter(|node| node.datacenter == *datacenter);
        sites.row(vec![
            datacenter.to_string(),
            here().filter(|node| node.roles.origin).count().to_string(),
            here().filter(|node| node.roles.member).count().to_string(),
            here().filter(|node| node.roles.proxy).count().to_string(),
        ]);
        for node in here() {
            nodes.row(vec![
                datacenter.to_string(),
                node.id.to_string(),
                node.roles.to_string(),
                shown(node.address),
                shown(config.listen(&node.id).or(node.address)),
                shown(config.admin(&node.id)),
            ]);
        }
    }
    let insecure =
        if config.insecure() { "allowed on every address (insecure = true)" } else { "on loopback only" };
    format!(
        "ok: {}\n\ncluster {}: {} in {}, plaintext {insecure}, second stage {}\n\n{sites}\n{nodes}",
        config.path().display(),
        topology.cluster(),
        show_count(topology.nodes().count() as u64, "node"),
        show_count(datacenters.len() as u64, "datacenter"),
        config.second_stage(),
    )
}
