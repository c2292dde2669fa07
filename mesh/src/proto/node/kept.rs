//! What a node keeps, for the checker of a simulation.

use super::Node;
use crate::proto::kept::Kept;

impl Node {
    /// Limit by limit.
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> {
        let client = self.client.iter().flat_map(|client| client.kept());
        let member = self.member.iter().flat_map(|member| member.kept());
        let proxy = self.proxy.iter().flat_map(|proxy| proxy.kept(&self.links));
        client.chain(member).chain(proxy)
    }

    /// See [`Proxy::refused_beyond`](crate::proto::proxy::Proxy::refused_beyond).
    #[must_use]
    pub fn refused_beyond(&self) -> u64 {
        self.proxy.as_ref().map_or(0, |proxy| proxy.refused_beyond())
    }
}
