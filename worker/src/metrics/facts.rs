//! What rarely changes about a host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use serde_json::Value;

use super::source::Source;
use super::{Figures, cpu, memory, put};

/// How the makers of virtual machines sign them (`/sys/class/dmi/id/`), and what people
/// call those. The first that is found counts.
const MACHINES: &[(&str, &str)] = &[
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("Amazon EC2", "amazon"),
    ("Google Compute Engine", "google"),
    ("DigitalOcean", "digitalocean"),
    ("Hetzner", "hetzner"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VirtualBox", "virtualbox"),
    ("innotek", "virtualbox"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("Virtual Machine", "hyperv"),
];

pub(super) fn collect(source: &Source) -> Figures {
    let mut facts = Figures::new();
    let mut fact = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            put(&mut facts, name, value);
        }
    };
    let text = |file| source.text(file).map(Value::from);
    let release = source.text("/etc/os-release").or_else(|| source.text("/usr/lib/os-release")).unwrap_or_default();

    let os = release_field(&release, "NAME").or_else(|| source.text("/proc/sys/kernel/ostype"));
    fact("os", os.map(Value::from));
    fact("os_version", release_field(&release, "VERSION_ID").map(Value::from));
    fact("kernel", text("/proc/sys/kernel/osrelease"));
    fact("architecture", Some(std::env::consts::ARCH.into()));
    fact("hostname", text("/proc/sys/kernel/hostname"));
    fact("cores", cpu::cores(source).ok().map(Value::from));
    fact("memory_bytes", memory::total_bytes(source).ok().map(Value::from));
    fact("addresses", addresses().map(Value::from));
    fact("boot_id", text("/proc/sys/kernel/random/boot_id"));
    fact("booted_at", source.text("/proc/stat").as_deref().and_then(booted_at).map(Value::from));
    fact("machine_id", machine_id(source).map(Value::from));
    fact("virtualization", virtualization(source).map(Value::from));
    fact("container", container(source).map(Value::from));
    facts
}

/// A field of `/etc/os-release`, which is written in shell syntax.
fn release_field(release: &str, name: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    let quoted = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    (!value.is_empty()).then(|| value.replace('\\', ""))
}

/// The addresses of this host by which others may reach it. Those of a link say nothing
/// without naming the link.
fn addresses() -> Option<Vec<String>> {
    let addresses = getifaddrs().ok()?.filter_map(|interface| {
        let address = interface.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        let of_link = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        (!ip.is_loopback() && !of_link).then_some(ip)
    });
    // Sorted, so that an unchanged host has unchanged facts.
    let sorted: BTreeSet<IpAddr> = addresses.collect();
    Some(sorted.iter().map(IpAddr::to_string).collect())
}

/// RFC 3339, UTC.
fn booted_at(stat: &str) -> Option<String> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    let booted = jiff::Timestamp::from_second(seconds.trim().parse().ok()?).ok()?;
    Some(booted.to_string())
}

fn machine_id(source: &Source) -> Option<String> {
    let id = source.text("/etc/machine-id")?;
    // An image that never booted has "uninitialized".
    id.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(id)
}

fn virtualization(source: &Source) -> Option<String> {
    let signs = ["product_name", "sys_vendor", "board_vendor", "bios_vendor"]
        .map(|sign| source.text(&format!("/sys/class/dmi/id/{sign}")));
    let signed = |(sign, name): &(&str, &'static str)| {
        let found = signs.iter().flatten().any(|text| text.contains(sign));
        found.then(|| (*name).to_owned())
    };
    MACHINES.iter().find_map(signed).or_else(|| source.text("/sys/hypervisor/type")).or_else(|| {
        let info = source.text("/proc/cpuinfo")?;
        let flags = info.lines().find(|line| line.starts_with("flags"))?;
        let virtual_machine = flags.split_whitespace().any(|flag| flag == "hypervisor");
        virtual_machine.then(|| "yes".to_owned())
    })
}

fn container(source: &Source) -> Option<String> {
    let left_by =
        [("/.dockerenv", "docker"), ("/run/.containerenv", "podman"), ("/var/run/secrets/kubernetes.io", "kubernetes")];
    // Others say it here, as systemd asks them to.
    source.text("/run/systemd/container").or_else(|| {
        let (_, engine) = left_by.iter().find(|(file, _)| source.has(file))?;
        Some((*engine).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_files_leave_facts_out() {
        let root = tempfile::tempdir().unwrap();
        let facts = collect(&Source::new(root.path().to_owned()));
        let names: Vec<_> = facts.keys().collect();
        assert_eq!(names, ["architecture", "addresses"]);
    }

    #[test]
    fn facts_are_read_from_the_files() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/os-release", "NAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\n");
        write("etc/machine-id", "uninitialized\n");
        write("proc/stat", "cpu 1 2 3 4 5 6 7 8\ncpu0 1 2 3 4 5 6 7 8\nbtime 1753000000\n");
        write("sys/class/dmi/id/sys_vendor", "QEMU\n");
        write("sys/class/dmi/id/product_name", "KVM Virtual Machine\n");
        write(".dockerenv", "");
        let facts = collect(&Source::new(root.path().to_owned()));
        assert_eq!(facts["os"], "Debian GNU/Linux");
        assert_eq!(facts["os_version"], "12");
        assert_eq!(facts["cores"], 1);
        assert_eq!(facts["booted_at"], "2025-07-20T08:26:40Z");
        assert_eq!(facts["virtualization"], "kvm");
        assert_eq!(facts["container"], "docker");
        assert!(!facts.contains_key("machine_id"));
    }

    #[test]
    fn release_fields_are_unquoted() {
        assert_eq!(release_field("NAME=Fedora\n", "NAME").unwrap(), "Fedora");
        assert_eq!(release_field("A=1\nNAME=\"a \\$b\"", "NAME").unwrap(), "a $b");
        assert_eq!(release_field("NAME=\n", "NAME"), None);
        assert_eq!(release_field("PRETTY_NAME=x\n", "NAME"), None);
    }
}
