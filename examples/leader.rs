//! A leader in one file: a batch per datacenter, receipts, and what to do when a budget is used up.
//!
//! Start some members and proxies of the file, then `cargo run --example leader -- deploy/config/example.toml`.

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use tokio::task::JoinSet;
use trunkline::config::{Config, Role};
use trunkline_mesh::{Batch, Message, NodeId, Outcome, Receipt, TrySendError, join};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).map_or("deploy/config/example.toml".into(), PathBuf::from);
    let config = Config::load(&path)?;
    let asked = std::env::var("TRUNKLINE_NODE").ok(); // Else the only origin of the file.
    let node = config.choose(asked.as_deref(), Role::Origin)?;
    let (client, _inbox) = join(config.mesh(node)).await?;

    let mut receipts: JoinSet<(Vec<NodeId>, Vec<Outcome>)> = JoinSet::new();
    for index in 1..=100 {
        // Clones of one `Bytes` are recognised by address: they cross the WAN once per datacenter.
        let entry = Bytes::from(format!("entry {index}"));
        for datacenter in config.topology().datacenters() {
            let members = config.topology().members_of(&datacenter).map(|member| member.id.clone());
            let members: Vec<NodeId> = members.collect();
            let mut batch = Batch::to(datacenter.clone());
            batch.extend(members.iter().map(|member| Message::new(member.clone(), entry.clone())));
            let receipt: Receipt = match client.try_send(batch) {
                Ok(receipt) => receipt,
                Err(TrySendError::Busy { datacenter, queued_bytes, batch }) => {
                    // A real leader may rather shed load here, or go on with the other datacenters.
                    eprintln!("datacenter {datacenter} is behind by {queued_bytes} B: waiting");
                    client.send(batch).await?
                }
                Err(error) => return Err(error.into()),
            };
            receipts.spawn(async move { (members, receipt.await) });
        }
    }

    let (mut delivered, mut failed) = (0, 0);
    while let Some(receipt) = receipts.join_next().await {
        let (members, outcomes) = receipt?;
        for (member, outcome) in members.iter().zip(outcomes) {
            let Outcome::Failed { reason, maybe_delivered } = outcome else {
                delivered += 1;
                continue;
            };
            failed += 1;
            let perhaps = if maybe_delivered { "perhaps " } else { "" };
            eprintln!("{perhaps}not delivered to {member}: {reason}");
        }
    }
    println!("{delivered} delivered, {failed} failed");
    client.mesh().drain().await;
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
