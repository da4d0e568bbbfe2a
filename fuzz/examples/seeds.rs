//! Writes the corpus that fuzzing begins with, `seeds/TARGET/NAME`, from real documents, keys and files. Needs
//! `ssh-keygen` and GNU `tar`. Run it again where a format has changed:
//!
//!     cargo +nightly run --manifest-path fuzz/Cargo.toml --example seeds

use std::{error::Error, fs, path::Path, process::Command};

use fuzz::{ANN, DOCUMENT, HOST, SALT, job, join};
use protocol::{
    action::Argument,
    approval::{Approval, Approvals},
    command::{Envelope, Manifest},
    control::{CancelOrder, Control},
    job::JobRecord,
    name::Salt,
    outcome::{Outcome, State},
    rollout::{Plan, Waves},
    sealing::{SealingKey, UnsealingKey},
    secret::{JobKey, Sealed, digest},
    signed::Signed,
    standing::Standing,
    statement::{self, Subject},
    status::Status,
    targets::Targets,
    trust::{
        certificate::Certificate,
        signing::SigningKey,
        sshsig::{self, Signature},
    },
};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const POLICY: &str = r#"
[groups]
web = ["bob", "*@desk"]
ops = ["eve"]

[[policy]]
who = ["@web", "alice"]
actions = ["exec"]
arguments.argv = [["systemctl", "restart", "web*"], ["uptime"], ["journalctl", "-u", "web?", "…"]]
arguments.user = ["www", "deploy"]

[[policy]]
who = ["alice"]
actions = ["exec", "ping"]
approvals = 2
approvers = ["@ops", "alice"]
pre_approved = ["ping"]

[[policy]]
who = ["*@desk"]
actions = ["collect-*", "cancel"]
"#;

const NOW: u64 = fuzz::NOW * 1000;

fn main() -> Result<()> {
    documents()?;
    trust()?;
    of_ctl()?;
    archives()?;
    write("policy", "rules", &join(&[b"systemctl restart web1", POLICY.as_bytes()]))
}

fn write(target: &str, name: &str, seed: &[u8]) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), seed)?)
}

/// An archive with a file, a directory, a symbolic link, a hard link, a long name and attributes of PAX; compressed, and as
/// it is.
fn archives() -> Result<()> {
    let place = std::env::temp_dir().join(format!("redfleet-seeds-{}", std::process::id()));
    let release = place.join("release");
    fs::create_dir_all(release.join("bin"))?;
    fs::write(release.join("bin/web"), "#!/bin/sh\n")?;
    std::os::unix::fs::symlink("../bin/web", release.join("bin/link"))?;
    fs::hard_link(release.join("bin/web"), release.join("hard"))?;
    fs::write(release.join("n".repeat(120)), "long")?;
    for (name, format) in [("gnu", "--format=gnu"), ("pax", "--format=pax")] {
        for (ending, compress) in [("tar", "--no-auto-compress"), ("tar.gz", "--gzip"), ("tar.zst", "--zstd")] {
            let file = place.join("archive");
            let words = ["--create", format, compress, "--owner=0", "--group=0", "--mtime=@0", "--sort=name", "--file"];
            let made = Command::new("tar").args(words).arg(&file).arg("-C").arg(&release).arg(".").status()?;
            assert!(made.success(), "tar");
            write("unpack", &format!("{name}.{ending}"), &fs::read(&file)?)?;
        }
    }
    Ok(fs::remove_dir_all(place)?)
}

/// The values of some fields, in this order; empty where there is no such field.
fn seed<N: AsRef<str>>(names: &[&str], fields: &[(N, Vec<u8>)]) -> Vec<u8> {
    let value =
        |name: &&str| fields.iter().find(|(field, _)| field.as_ref() == *name).map_or(&[][..], |(_, value)| value);
    join(&names.iter().map(value).collect::<Vec<_>>())
}

fn documents() -> Result<()> {
    let targets = Targets::new(["web0", HOST, "web2"].iter().map(|host| host.parse().expect("a name")));
    let (host, proof) = targets.proofs().nth(1).expect("a host");
    let (host_key, job_key) = (UnsealingKey::generate(), JobKey::generate());
    let secrets = [("secret".to_owned(), Argument::Map([("TOKEN".to_owned(), "hidden".to_owned())].into()))];
    let arguments = [
        ("argv".to_owned(), Argument::List(vec!["uname".to_owned(), "-r".to_owned()])),
        ("cwd".to_owned(), Argument::Text("/srv".to_owned())),
        ("env".to_owned(), Argument::Map([("A".to_owned(), "1".to_owned())].into())),
        ("count".to_owned(), Argument::Integer(-7)),
        ("force".to_owned(), Argument::Boolean(true)),
    ];
    let manifest = Manifest {
        job: job(),
        salt: Salt::new(SALT),
        action: "exec".to_owned(),
        arguments: arguments.into(),
        sealed: Some(Sealed::seal(job(), secrets.into(), &job_key)?),
        operator: ANN.to_owned(),
        issued_at_ms: NOW,
        start_by_ms: NOW + 300_000,
        timeout_ms: 60_000,
        retention_ms: 604_800_000,
        keep_output: Some(1024),
        targets: targets.root(),
        namespace: Some("prod".parse()?),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    };
    let signed = Signed::unsigned(&manifest);
    let public = host_key.public(manifest.namespace.clone(), host.clone());
    let sealed_key = public.seal(&job_key, &digest(&signed.bytes));
    let order = CancelOrder::new(&manifest, &signed, targets.root(), ANN.to_owned(), NOW);

    let mut fields = Envelope { signed, proof: proof.clone() }.fields();
    fields.push(("signature", sign(&key(1))?.to_bytes()));
    fields.push(sealed_key.field());
    write("command", "exec", &seed(&["version", "manifest", "signature", "proof", "key"], &fields))?;
    let bob = Approval { principal: "bob@desk".to_owned(), signature: sign(&key(2))?.to_bytes() };
    write("approvals", "bob", &Approvals(vec![bob]).entry_field().expect("an approval").1)?;
    let signed = Signed::unsigned(&public).with_signature(sign(&key(1))?.to_bytes());
    write("sealing", "fact", SealingKey::to_fact(&signed).as_bytes())?;
    write("sealing", "file", host_key.to_text().as_bytes())?;
    let root = targets.root();
    write("proof", "web1", &join(&[&root.count.to_be_bytes(), &proof.index.to_be_bytes(), &root.root, &proof.path]))?;

    let cancel = Control::Cancel(Envelope { signed: Signed::unsigned(&order), proof: proof.clone() }).fields();
    write("control", "cancel", &seed(&["kind", "version", "order", "signature", "proof"], &cancel))?;
    write("control", "wake", &seed(&["kind", "version", "order", "signature", "proof"], &Control::Wake.fields()))?;

    let mut outcome = Outcome::bare(State::Failed, Some("exit code 128".to_owned()), NOW);
    outcome.stdout.kept = b"6.1.0-18\n".to_vec();
    outcome.data = Some([("cores".to_owned(), 2.into())].into_iter().collect());
    let about = Subject { namespace: None, job: manifest.job, host, manifest: None, unverified: None };
    let fields = statement::fields(&outcome, &about, &SigningKey::generate());
    write("outcome", "failed", &seed(&["statement", "signature", "stdout", "stderr", "data"], &fields))?;

    let record = JobRecord::unsigned(manifest, targets.clone());
    let order = include_bytes!("../../protocol/fixtures/standing-order-v1.msgpack").to_vec();
    let standing = Standing::open(Signed::of_bytes(order, SigningKey::generate().sign(sshsig::STANDING, DOCUMENT)))?;
    write("standing", "cron", &join(&[&NOW.to_be_bytes(), &standing.voucher()]))?;
    write("record", "exec", &seed(&["manifest", "signature", "targets"], &record.fields()))?;

    let plan = Plan {
        rollout: job(),
        salt: Salt::new(SALT),
        from: None,
        action: "exec".to_owned(),
        arguments: record.manifest.arguments.clone(),
        secrets: vec!["secret".to_owned()],
        operator: ANN.to_owned(),
        issued_at_ms: NOW,
        start_by_ms: 300_000,
        timeout_ms: 60_000,
        retention_ms: 3_600_000,
        keep_output: Some(1024),
        targets: targets.root(),
        namespace: None,
        waves: Waves { canary: 1, batch: 5, wait_ms: 1000, max_fail: 2, abort_if: Some("cpu.usage > 90".to_owned()) },
    };
    let names: Vec<_> = targets.hosts().map(|host| host.as_str()).collect();
    let wave = |host: Option<&&str>| host.map(|host| format!("{} {host}", job())).unwrap_or_default().into_bytes();
    let (plan, waves) = (Signed::unsigned(&plan).bytes, [wave(names.first()), wave(names.get(1))]);
    write("rollout", "waves", &join(&[&plan, &[], names.join(" ").as_bytes(), &waves[0], &waves[1]]))?;

    let status = Status {
        last_seen_ms: NOW,
        stopped: false,
        version: "0.1.0".to_owned(),
        boot_id: "5b1f5a52-6f0e-4f6b-8e3a-0a4a6f2a9a11".to_owned(),
        started_at_ms: NOW - 1000,
        pid: 4711,
        running: 1,
        slots: 4,
        read_age_ms: 3,
        clock_ahead_ms: -2,
        refuses: Some("no journal".to_owned()),
        trust: Some("trust: line 3: it has no key".to_owned()),
        dropped: vec![("malformed".to_owned(), 3)],
        ..Status::default()
    };
    let lines: Vec<_> = status.fields().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    write("status", "busy", lines.join("\n").as_bytes())?;

    write(
        "event",
        "running",
        b"host=web1\nstate=running\ndecision=accepted\noperator=ann@desk\nprincipal=ann@desk\nkey=SHA256:x",
    )?;
    write("event", "waits", b"host=web1\nstate=delivered\nwaits_for=lock 'deploy'")?;
    write("event", "refused", b"host=web1\norder=cancel\ndecision=refused\noperator=eve\nreason=not trusted")?;
    write("event", "output", b"stream=stdout\noffset=7\ndata=text")
}

fn key(seed: u8) -> ssh_key::PrivateKey {
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
    ssh_key::PrivateKey::new(pair.into(), "").expect("a key")
}

fn sign(key: &ssh_key::PrivateKey) -> Result<Signature> {
    Ok(sshsig::sign(key, sshsig::JOB, DOCUMENT)?)
}

/// What a hardware key would make, but for the signature itself.
fn hardware(key: &ssh_key::PrivateKey) -> Result<Vec<u8>> {
    let name = b"sk-ssh-ed25519@openssh.com";
    let point = key.public_key().key_data().ed25519().ok_or("an ed25519 key")?.0;
    let signature = [&strings(&[name, &[7; 64]])[..], &[1, 0, 0, 0, 9]].concat();
    let parts = strings(&[&strings(&[name, &point, b"ssh:"]), sshsig::JOB.as_bytes(), b"", b"sha512", &signature]);
    Ok([b"SSHSIG", &1_u32.to_be_bytes()[..], &parts].concat())
}

/// Strings in the SSH encoding.
fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let encoded = parts.iter().map(|part| [&(part.len() as u32).to_be_bytes()[..], part].concat());
    encoded.collect::<Vec<_>>().concat()
}

/// What `ctl` reads: the keys of hosts, and the replies of an ssh-agent.
fn of_ctl() -> Result<()> {
    let [one, two] = [(); 2].map(|()| SigningKey::generate());
    let known = format!("# ours\n\nweb1,prod/web1 {} remark\nweb2\t{}\r\nweb1 {}", one.line(), two.line(), two.line());
    write("known_hosts", "hosts", known.as_bytes())?;
    let filters =
        ["cpu.usage > 80% and (label.env = 'prod' or not os ~ \"debian*\")", "memory.used_bytes>=4GiB", "web[1-3,07]*"];
    for (number, filter) in filters.into_iter().enumerate() {
        write("filter", &number.to_string(), filter.as_bytes())?;
    }
    let key = key(1);
    let public = key.public_key().to_bytes()?;
    let identities = strings(&[&public, b"ann@desk", one.public().blob(), b""]);
    write("agent", "identities", &[&[12], &2_u32.to_be_bytes()[..], &identities].concat())?;
    let made = strings(&[b"ssh-ed25519", &[7; 64]]);
    write("agent", "signature", &[&[14], &strings(&[&made])[..]].concat())?;
    write("agent", "refusal", &[5])
}

fn trust() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/seeds");
    fs::create_dir_all(&folder)?;
    let keygen = |line: &str| -> Result<()> {
        let status = Command::new("ssh-keygen").current_dir(&folder).args(line.split(' ')).status()?;
        if status.success() { Ok(()) } else { Err(format!("ssh-keygen {line}: {status}").into()) }
    };
    let read = |name: &str| fs::read_to_string(folder.join(name));
    for kind in ["ed25519", "ecdsa"] {
        _ = fs::remove_file(folder.join(kind));
        keygen(&format!("-q -t {kind} -N  -C remark -f {kind}"))?;
        keygen(&format!("-q -s {kind} -I id -z 7 -n {ANN},bob {kind}.pub"))?;
        let private = ssh_key::PrivateKey::read_openssh_file(&folder.join(kind));
        if let Ok(private) = private
            && kind == "ed25519"
        {
            write("sshsig", kind, &sign(&private)?.to_bytes())?;
        }
        let certificate = Certificate::from_openssh(&read(&format!("{kind}-cert.pub"))?)?;
        write("certificate", kind, certificate.blob())?;
    }
    let private = ssh_key::PrivateKey::read_openssh_file(&folder.join("ed25519"))?;
    let certificate = Certificate::from_openssh(&read("ed25519-cert.pub")?)?;
    let by_key = sign(&private)?;
    let certified = by_key.clone().certified(&certificate)?;
    write("sshsig", "certified", &certified.to_bytes())?;

    write("sshsig", "hardware", &hardware(&private)?)?;

    let (ed25519, ecdsa) = (read("ed25519.pub")?, read("ecdsa.pub")?);
    let signers = format!(
        "# version: 7\n\"*@desk,!bob\" namespaces=\"redfleet-*\",valid-after=\"20270101Z\" {ed25519}\
         {ANN} Cert-Authority,valid-before=\"20300101000000Z\" {ed25519}bob\t{ecdsa}\r\n"
    );
    write("signers", "key", &join(&[&by_key.to_bytes(), signers.as_bytes()]))?;
    write("signers", "certificate", &join(&[&certified.to_bytes(), signers.as_bytes()]))?;

    let listed = "serial: 1\nserial: 3\nserial: 6\nserial: 9-5000\nid: bob's\n";
    fs::write(folder.join("listed"), format!("{listed}sha256: {ecdsa}key: {ecdsa}"))?;
    keygen("-q -k -f list -s ed25519.pub listed")?;
    write("revoked", "list", &join(&[&certified.to_bytes(), &fs::read(folder.join("list"))?]))?;
    write("revoked", "keys", &join(&[&by_key.to_bytes(), format!("# gone\n{ecdsa}").as_bytes()]))
}
