//! Who a certificate says a node is, as the URI in it: `spiffe://<cluster>/dc/<datacenter>/node/<node id>`.

use std::fmt;
use std::str::FromStr;

use super::{ClusterId, Datacenter, NodeId};

/// The name of a node in its certificate. Says nothing of roles: those are the topology's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpiffeId {
    /// Its cluster: the trust domain.
    pub cluster: ClusterId,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// Its id.
    pub node: NodeId,
}

/// A URI that names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name a node: a certificate's URI is spiffe://CLUSTER/dc/DATACENTER/node/NODE")]
pub struct SpiffeError(String);

const SCHEME: &str = "spiffe://";

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/dc/{}/node/{}", self.cluster, self.datacenter, self.node)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    /// Reads what [`SpiffeId`] shows, and nothing else: no other case, no empty segment, no query.
    fn from_str(uri: &str) -> Result<Self, SpiffeError> {
        let parts: Option<Vec<&str>> = uri.strip_prefix(SCHEME).map(|rest| rest.splitn(6, '/').collect());
        if let Some([cluster, "dc", datacenter, "node", node]) = parts.as_deref()
            && let (Ok(cluster), Ok(datacenter), Ok(node)) =
                (ClusterId::new(cluster), Datacenter::new(datacenter), NodeId::new(node))
        {
            return Ok(Self { cluster, datacenter, node });
        }
        Err(SpiffeError(uri.chars().take(256).flat_map(char::escape_default).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_shown() {
        let text = "spiffe://example/dc/eu/node/eu-p1";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(
            (id.cluster.as_str(), id.datacenter.as_str(), id.node.as_str()),
            ("example", "eu", "eu-p1")
        );
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn what_is_nearly_a_name_is_none() {
        for uri in [
            "",
            "spiffe://",
            "spiffe://example",
            "SPIFFE://example/dc/eu/node/eu-p1",
            "https://example/dc/eu/node/eu-p1",
            "spiffe://example/dc/eu/node/",
            "spiffe://example/dc/eu/node/eu-p1/",
            "spiffe://example/dc/eu/node/eu-p1/x",
            "spiffe://example//dc/eu/node/eu-p1",
            "spiffe:///dc/eu/node/eu-p1",
            "spiffe://example/dc/eu/node/EU-P1",
            "spiffe://example/dc/eu/node/eu-p1?x",
            "spiffe://example/dc/eu/node/eu-p1#",
            "spiffe://example/dc/eu/node/%65u-p1",
            "spiffe://example/dc/../node/eu-p1",
            "spiffe://example/dc/eu/node/eu-p1\0",
            "spiffe://example/node/eu-p1/dc/eu",
            " spiffe://example/dc/eu/node/eu-p1",
        ] {
            let error = uri.parse::<SpiffeId>().unwrap_err().to_string();
            assert!(error.contains("does not name a node"), "{error}");
        }
    }
}
