//! Faults that are put into a node from outside, by whoever holds it: nothing that comes over a connection does. What is
//! shipped has one of them, for the demo; the others are in builds with the feature `sim` alone.

use super::Node;

impl Node {
    /// See [`Proxy::set_frozen`](crate::proto::proxy::Proxy::set_frozen). Without effect on a node that is no proxy.
    pub fn set_frozen(&mut self, frozen: bool) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_frozen(frozen);
        }
    }
}

#[cfg(feature = "sim")]
impl Node {
    /// See [`Proxy::set_lying`](crate::proto::proxy::Proxy::set_lying).
    pub fn set_lying(&mut self, one_in: u64) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_lying(one_in);
        }
    }

    /// See [`Proxy::set_forging`](crate::proto::proxy::Proxy::set_forging).
    pub fn set_forging(&mut self) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_forging();
        }
    }

    /// See [`Proxy::set_hoarding`](crate::proto::proxy::Proxy::set_hoarding).
    pub fn set_hoarding(&mut self) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_hoarding();
        }
    }

    /// See [`Member::set_slandering`](crate::proto::member::Member::set_slandering).
    pub fn set_slandering(&mut self) {
        if let Some(member) = self.member.as_mut() {
            member.set_slandering();
        }
    }

    /// See [`Client::set_leaking`](crate::proto::client::Client::set_leaking).
    pub fn set_leaking(&mut self, one_in: u64) {
        if let Some(client) = self.client.as_mut() {
            client.set_leaking(one_in);
        }
    }
}
