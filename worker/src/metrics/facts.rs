//! Properties of a host that rarely change.

use std::{collections::BTreeSet, net::IpAddr};

use jiff::Timestamp;
use nix::ifaddrs::getifaddrs;
use serde_json::Value;

use super::{Figures, cpu, memory, source::Source};

/// Texts in `/sys/class/dmi/id/` by which virtual machines identify themselves, and the names that are reported
/// for them. The first match counts.
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

/// Files that container engines create in their containers.
const CONTAINERS: &[(&str, &str)] =
    &[("/.dockerenv", "docker"), ("/run/.containerenv", "podman"), ("/var/run/secrets/kubernetes.io", "kubernetes")];

pub(super) fn collect(source: &Source) -> Figures {
    let release = source.text("/etc/os-release").or_else(|| source.text("/usr/lib/os-release")).unwrap_or_default();
    let cpu = cpu::read(source).ok();
    let booted = cpu.as_ref().and_then(|cpu| Timestamp::from_second(cpu.booted.try_into().ok()?).ok());

    let text = |file| source.text(file).map(Value::from);
    let facts = [
        ("os", release_field(&release, "NAME").map(Value::from).or_else(|| text("/proc/sys/kernel/ostype"))),
        ("os_version", release_field(&release, "VERSION_ID").map(Value::from)),
        ("kernel", text("/proc/sys/kernel/osrelease")),
        ("architecture", Some(std::env::consts::ARCH.into())),
        ("hostname", text("/proc/sys/kernel/hostname")),
        ("cores", cpu.map(|cpu| cpu.cores.into())),
        ("memory_bytes", memory::total_bytes(source).ok().map(Value::from)),
        ("addresses", addresses().map(Value::from)),
        ("boot_id", text("/proc/sys/kernel/random/boot_id")),
        ("booted_at", booted.map(|booted| booted.to_string().into())),
        ("machine_id", machine_id(source).map(Value::from)),
        ("virtualization", virtualization(source).map(Value::from)),
        ("container", container(source).map(Value::from)),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A field of `/etc/os-release`, which is written in shell syntax.
fn release_field(release: &str, name: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    let quoted = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    (!value.is_empty()).then(|| value.replace('\\', ""))
}

/// The addresses at which other hosts can reach this one. Link-local addresses are left out: they are ambiguous
/// without the name of the link.
fn addresses() -> Option<Vec<String>> {
    let addresses = getifaddrs().ok()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))?;
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        (!ip.is_loopback() && !link_local).then_some(ip)
    });
    // Sorted, so that the facts of an unchanged host stay the same.
    let sorted: BTreeSet<IpAddr> = addresses.collect();
    Some(sorted.iter().map(IpAddr::to_string).collect())
}

fn machine_id(source: &Source) -> Option<String> {
    let id = source.text("/etc/machine-id")?;
    // Before an image's first boot, the file contains "uninitialized".
    id.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(id)
}

fn virtualization(source: &Source) -> Option<String> {
    let texts = ["product_name", "sys_vendor", "board_vendor", "bios_vendor"]
        .map(|file| source.text(&format!("/sys/class/dmi/id/{file}")).unwrap_or_default());
    let machine = MACHINES.iter().find(|(sign, _)| texts.iter().any(|text| text.contains(sign)));
    machine.map(|(_, name)| (*name).to_owned()).or_else(|| source.text("/sys/hypervisor/type")).or_else(|| {
        let info = source.text("/proc/cpuinfo")?;
        let flags = info.lines().find(|line| line.starts_with("flags"))?;
        flags.split_whitespace().any(|flag| flag == "hypervisor").then(|| "yes".to_owned())
    })
}

fn container(source: &Source) -> Option<String> {
    // The interface that systemd offers to container engines.
    source.text("/run/systemd/container").or_else(|| {
        let (_, engine) = CONTAINERS.iter().find(|(file, _)| source.path(file).exists())?;
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
        write("proc/stat", "cpu 1 2 3 4\ncpu0 1 2 3 4\nctxt 1\nbtime 1753000000\nprocesses 1\n");
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
