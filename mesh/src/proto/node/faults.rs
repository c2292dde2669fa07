//! Faults that tests, simulations and demonstrations put into a node.

use super::Node;

impl Node {
    /// A fault for simulations: see [`Proxy::set_lying`](crate::proto::proxy::Proxy::set_lying).
    #[cfg(feature = "sim")]
    pub fn set_lying(&mut self, one_in: u64) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_lying(one_in);
        }
    }

    /// A fault for simulations: see [`Proxy::set_forging`](crate::proto::proxy::Proxy::set_forging).
    #[cfg(feature = "sim")]
    pub fn set_forging(&mut self) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_forging();
        }
    }

    /// A fault for simulations: see [`Member::set_slandering`](crate::proto::member::Member::set_slandering).
    #[cfg(feature = "sim")]
    pub fn set_slandering(&mut self) {
        if let Some(member) = self.member.as_mut() {
            member.set_slandering();
        }
    }

    /// A fault for simulations: see [`Client::set_leaking`](crate::proto::client::Client::set_leaking).
    #[cfg(feature = "sim")]
    pub fn set_leaking(&mut self, one_in: u64) {
        if let Some(client) = self.client.as_mut() {
            client.set_leaking(one_in);
        }
    }

    /// A fault for tests and demonstrations: see [`Proxy::set_frozen`](crate::proto::proxy::Proxy::set_frozen). Without effect on a node that is no proxy.
    pub fn set_frozen(&mut self, frozen: bool) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_frozen(frozen);
        }
    }
}
