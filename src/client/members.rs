//! Who is in the cluster, as a node tells it.

use std::net::SocketAddr;

use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;
use trunkline_mesh::{Datacenter, NodeId};

use super::connection::{Address, OPEN_TIMEOUT};

/// Nodes that one answer may name: no log is replicated to as many.
const MEMBERS_MAX: usize = 1024;

/// What a node says of the members, as it knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    /// It serves clients well: it hears of a leader, and that one of a majority. Else there may be a later membership.
    pub(crate) ready: bool,
    /// Term and index of the entry that says so; `None`: it knows of none.
    pub(crate) entry: Option<(u64, u64)>,
    /// They.
    pub(crate) nodes: Vec<Member>,
}

/// Where a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Member {
    /// Its node.
    pub(crate) node: NodeId,
    /// That node's datacenter.
    pub(crate) datacenter: Datacenter,
    /// Where others dial it, if it joined without being named in their files.
    pub(crate) address: Option<SocketAddr>,
}

/// As it is told. What a later version says beside is let be.
#[derive(Deserialize)]
struct Raw {
    index: Option<u64>,
    term: Option<u64>,
    ready: bool,
    members: Vec<Member>,
}

impl Members {
    /// Asks one node, for a few seconds at most.
    ///
    /// # Errors
    ///
    /// Why it says nothing.
    pub(crate) async fn ask(address: &Address) -> Result<Self, String> {
        let asked = async {
            let (code, answer) = address.get("/v1/members").await?;
            let body = answer.whole().await?;
            Self::parse(code, &body)
        };
        timeout(OPEN_TIMEOUT, asked).await.unwrap_or_else(|_| Err("it gives no answer in time".to_owned()))
    }

    fn parse(code: StatusCode, body: &[u8]) -> Result<Self, String> {
        match code {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err("it does not know the question: is it of an earlier version?".to_owned());
            }
            code => return Err(format!("it answers with {code}")),
        }
        let said: Raw = serde_json::from_slice(body)
            .map_err(|error| format!("it does not say who the members are: {error}"))?;
        if said.members.len() > MEMBERS_MAX {
            return Err(format!("it names {} members, and {MEMBERS_MAX} are most", said.members.len()));
        }
        Ok(Self { ready: said.ready, entry: said.term.zip(said.index), nodes: said.members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Members, String> {
        Members::parse(StatusCode::OK, body.as_bytes())
    }

    fn naming(members: usize) -> String {
        let member = |number| format!("{{\"node\":\"n{number}\",\"datacenter\":\"d\"}}");
        let members: Vec<String> = (0..members).map(member).collect();
        format!("{{\"index\":7,\"term\":2,\"ready\":true,\"members\":[{}]}}", members.join(","))
    }

    #[test]
    fn members_are_what_a_node_says_and_nothing_that_is_none_or_too_many() {
        let said = parse(
            r#"{"index":7,"term":2,"ready":false,"more":1,"members":
               [{"node":"a","datacenter":"d"},{"node":"b","datacenter":"e","address":"127.0.0.1:9","more":1}]}"#,
        );
        let said = said.unwrap();
        assert_eq!((said.ready, said.entry, said.nodes.len()), (false, Some((2, 7)), 2));
        assert_eq!((said.nodes[0].address, said.nodes[1].address), (None, "127.0.0.1:9".parse().ok()));
        let none = parse(r#"{"index":null,"term":null,"ready":false,"members":[]}"#).unwrap();
        assert_eq!((none.entry, none.nodes.len()), (None, 0));
        assert_eq!(parse(&naming(MEMBERS_MAX)).unwrap().nodes.len(), MEMBERS_MAX);
        assert!(parse(&naming(MEMBERS_MAX + 1)).unwrap_err().contains("1025 members"));
        for wrong in [
            "",
            "hello",
            "[]",
            "{}",
            r#"{"index":-1,"term":2,"ready":true,"members":[]}"#,
            r#"{"index":99999999999999999999,"term":2,"ready":true,"members":[]}"#,
            r#"{"index":7,"term":2,"ready":true,"members":[{"node":"../x","datacenter":"d"}]}"#,
            r#"{"index":7,"term":2,"ready":true,"members":[{"node":"a","datacenter":"d","address":"a:1"}]}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let whole = naming(3);
        (0..whole.len()).for_each(|end| assert!(parse(&whole[..end]).is_err(), "{end}"));
        assert!(Members::parse(StatusCode::NOT_FOUND, b"{}").unwrap_err().contains("earlier version"));
        assert!(Members::parse(StatusCode::FORBIDDEN, whole.as_bytes()).is_err());
    }
}
