//! Network namespaces, one for each process of a fleet, and a bridge that connects them with each other and with this process.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Context;

use super::command::{need_root, run};
use crate::server::Program;

/// The hosts of a network, which exist until this is dropped.
#[derive(Debug)]
pub(in crate::proof) struct Network {
    hosts: Vec<String>,
    /// Makes names and addresses differ from those of other proofs at the same time.
    id: u32,
}

impl Network {
    /// Makes a host for each process, by its name.
    /// Errors: this process is not root's, or there is no `ip`.
    pub(super) fn set_up(hosts: Vec<String>) -> anyhow::Result<Self> {
        need_root("network namespaces")?;
        let this = Self { hosts, id: std::process::id() };
        let bridge = this.bridge();
        ip(&format!("link add name {bridge} type bridge"))?;
        ip(&format!("address add {}/24 dev {bridge}", this.own_address()))?;
        ip(&format!("link set {bridge} up"))?;
        for index in 0..this.hosts.len() {
            let (namespace, port, address) = (this.namespace(index), this.port(index), this.address_of(index));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("link add {port} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("link set {port} master {bridge} up"))?;
            ip(&format!("-n {namespace} address add {address}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(this)
    }

    /// The address of this process.
    pub(super) fn own_address(&self) -> Ipv4Addr {
        // 198.18.0.0/15 is for benchmarks (RFC 2544), so no other network has it.
        Ipv4Addr::new(198, 18, self.id.to_le_bytes()[0], 1)
    }

    pub(super) fn address(&self, host: &str) -> anyhow::Result<Ipv4Addr> {
        Ok(self.address_of(self.index(host)?))
    }

    /// The program as a process on a host.
    pub(in crate::proof) fn inside(&self, host: &str, program: Program) -> anyhow::Result<Program> {
        // `ip netns exec` would also make a mount namespace, which keeps disks mounted.
        let network = format!("--net=/run/netns/{}", self.namespace(self.index(host)?));
        let mut args = vec![network.into(), program.path.into_os_string()];
        args.extend(program.args);
        Ok(Program { path: "nsenter".into(), args, ..program })
    }

    /// Cuts a host off from all others, or connects it again. Its packets are lost without an error.
    pub(super) fn cut_off(&self, host: &str, is_off: bool) -> anyhow::Result<()> {
        ip(&format!("link set {} {}", self.port(self.index(host)?), if is_off { "down" } else { "up" }))
    }

    /// Cuts the link between two hosts, or connects them again: the bridge forwards nothing between two isolated ports.
    pub(super) fn cut_link(&self, hosts: [&str; 2], is_cut: bool) -> anyhow::Result<()> {
        let isolated = if is_cut { "on" } else { "off" };
        hosts.into_iter().try_for_each(|host| {
            ip(&format!("link set {} type bridge_slave isolated {isolated}", self.port(self.index(host)?)))
        })
    }

    fn index(&self, host: &str) -> anyhow::Result<usize> {
        self.hosts.iter().position(|other| other == host).with_context(|| format!("there is no host {host}"))
    }

    fn address_of(&self, index: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.own_address().to_bits() + 1 + index as u32)
    }

    fn bridge(&self) -> String {
        format!("lt{}", self.id)
    }

    fn port(&self, index: usize) -> String {
        format!("lt{}-{index}", self.id)
    }

    fn namespace(&self, index: usize) -> String {
        format!("loadtest-{}-{}", self.id, self.hosts[index])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for index in 0..self.hosts.len() {
            let _ = ip(&format!("link del {}", self.port(index)));
            let _ = ip(&format!("netns del {}", self.namespace(index)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

fn ip(command: &str) -> anyhow::Result<()> {
    run(Command::new("ip").args(command.split(' ')))
}
