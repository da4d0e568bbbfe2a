//! What each target does with its input: it decodes, and uses what it decoded as the programs do. What must always hold
//! is asserted.
//!
//! Where several fields arrive together, the input is their lengths (two bytes each, all but the last) and then
//! their bytes: see [`join`].

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Component, Path},
    process,
    sync::LazyLock,
};

use controller::client::{Filter, Group, KnownHosts, Reply, Truth, Word};
use protocol::{
    action::{ActionSpec, Argument},
    approval::{Approvals, Signatories},
    command::{Addressed, Envelope, Manifest},
    control::{CancelOrder, Control},
    event::{Event, Piece},
    job::JobRecord,
    name::{HostName, JobId, Salt},
    rollout::{Plan, RolloutRecord},
    sealing::{SealedKey, SealingKey, UnsealingKey},
    secret::{JobKey, digest},
    signed::{Fields, Signed},
    standing::{Standing, schedule::Schedule},
    statement::{self, Report, Subject},
    status::Status,
    targets::{Proof, Targets},
    time::Millis,
    trust::{
        Trust,
        batch::{self, Claim},
        certificate::Certificate,
        signing::SigningKey,
        sshsig,
    },
};
use serde::Deserialize;
use worker::{
    apps::unpack::{Bounds, unpack as unpack_archive},
    policy::{Input, Origin, Policy},
};

/// The host whose worker decodes.
pub const HOST: &str = "web1";

/// Who is asked about.
pub const ANN: &str = "ann@desk";

/// The document that signatures of the seeds are over.
pub const DOCUMENT: &[u8] = b"document";

/// The key of the host.
static HOST_KEY: LazyLock<SigningKey> = LazyLock::new(SigningKey::generate);

/// The sealing key of the host.
static UNSEALING_KEY: LazyLock<UnsealingKey> = LazyLock::new(UnsealingKey::generate);

/// A moment in 2027, in Unix seconds.
pub const NOW: u64 = 1_800_000_000;

/// Puts fields into one input.
pub fn join(fields: &[&[u8]]) -> Vec<u8> {
    let (_, lengths) = fields.split_last().expect("a field");
    let length = |field: &&[u8]| u16::try_from(field.len()).expect("seeds are small").to_be_bytes();
    [lengths.iter().flat_map(length).collect(), fields.concat()].concat()
}

/// Takes fields out of one input. Lengths that are too large are those of what is left.
fn split<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let (lengths, mut rest) = input.split_at_checked(2 * (N - 1)).unwrap_or((&[], input));
    let mut lengths = lengths.chunks(2).map(|length| usize::from(length[0]) << 8 | usize::from(length[1]));
    std::array::from_fn(|_| {
        let (field, behind) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        rest = behind;
        field
    })
}

fn host() -> HostName {
    HOST.parse().expect("a name")
}

/// What the id of the seeds' job is made of.
pub const SALT: [u8; 16] = [7; 16];

/// The job of the seeds.
pub fn job() -> JobId {
    JobId::derive(ANN, NOW * 1000, &Salt::new(SALT))
}

/// The fields of an entry that are not empty, under their names.
fn fields<const N: usize>(names: [&str; N], values: [&[u8]; N]) -> Fields {
    let fields = names.into_iter().zip(values).filter(|(_, value)| !value.is_empty());
    fields.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
}

/// An entry of an inbox: version, manifest, signature, proof, key.
pub fn command(input: &[u8]) {
    let mut fields = fields(["version", "manifest", "signature", "proof", "key"], split(input));
    let Ok(envelope) = Envelope::<Manifest>::take(&mut fields) else { return };
    let key = SealedKey::take(&mut fields);
    let Ok(manifest) = envelope.signed.open() else { return };
    if let (Ok(key), Some(sealed)) = (key, &manifest.sealed) {
        // Nobody can seal a key without the public half.
        assert!(UNSEALING_KEY.open(&key, &digest(&envelope.signed.bytes)).is_err());
        assert!(sealed.open(manifest.job, &JobKey::generate()).is_err());
    }
    let received = envelope.signed.bytes.clone();
    assert!(envelope.fields().into_iter().any(|(name, bytes)| name == "manifest" && bytes == received));
    if envelope.open(&host()).is_ok() {
        assert!(manifest.targets().includes(&host(), &envelope.proof));
    }
    _ = (manifest.has_its_own_id(), manifest.kept_output(), protocol::job::shown(&manifest));
}

/// The approvals that travel with a command.
pub fn approvals(input: &[u8]) {
    let Ok(approvals) = Approvals::take(&mut fields(["approvals"], [input])) else { return };
    assert!(approvals.0.len() <= protocol::limits::APPROVALS);
    let mut signatories = Signatories::begin(ANN, None);
    for approval in &approvals.0 {
        if let Ok(signature) = sshsig::Signature::from_bytes(&approval.signature)
            && signatories.admit(&approval.principal, &signature).is_ok()
        {
            assert!(signatories.admit("another", &signature).is_err(), "a key counts once");
        }
    }
    _ = approvals.entry_field();
}

/// The count of a tree, its root, and a proof.
pub fn proof(input: &[u8]) {
    let [count, index, root, path] = split(input);
    let number = |bytes: &[u8]| bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    let root = protocol::targets::TargetRoot { count: number(count), root: root.to_vec() };
    let proof = Proof { index: number(index), path: path.to_vec() };
    if root.includes(&host(), &proof) {
        // Nobody finds another proof for the same place.
        assert!(!root.includes(&host(), &Proof { index: proof.index ^ 1, ..proof.clone() }) || root.count == 1);
    }
    let hosts: Vec<HostName> = String::from_utf8_lossy(path).split(' ').filter_map(|name| name.parse().ok()).collect();
    let targets = Targets::new(hosts);
    let root = targets.root();
    for (host, proof) in targets.proofs().take(3) {
        assert!(root.includes(host, &proof));
    }
}

/// An entry of a control stream: kind, version, order, signature, proof.
pub fn control(input: &[u8]) {
    let fields = fields(["kind", "version", "order", "signature", "proof"], split(input));
    let Ok(Control::Cancel(envelope)) = Control::from_fields(fields) else { return };
    if let Ok(order) = envelope.open(&host()) {
        let order: CancelOrder = order;
        assert!(order.targets.includes(&host(), &envelope.proof));
        // No document is one of another kind.
        let manifest = Signed::<Manifest>::of_bytes(envelope.signed.bytes.clone(), Vec::new());
        assert!(manifest.open().is_err());
    }
}

/// A result: statement, signature, stdout, stderr, data.
pub fn outcome(input: &[u8]) {
    let fields = fields(["statement", "signature", "stdout", "stderr", "data"], split(input));
    let Ok(report) = Report::take(fields) else { return };
    let key = &*HOST_KEY;
    let claim = Claim { key: &key.public(), document: &report.signed.bytes, signature: &report.signed.signature };
    assert!(
        batch::verify(sshsig::HOST, &[claim]).iter().all(Result::is_err),
        "nobody can sign for a key that is not theirs"
    );
    let Ok(statement) = report.signed.open() else { return };
    let host = host();
    let about = Subject { namespace: None, job: job(), host: &host, manifest: statement.manifest(), unverified: None };
    if let Ok(outcome) = report.open(&about) {
        _ = (outcome.duration_ms(), outcome.is_cut(), outcome.stdout.after(7));
        _ = statement::fields(&outcome, &about, key);
    }
}

/// Lines of name and value.
fn lines(input: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(input);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// An entry of a job's events, or of a host's output: lines of name and value.
pub fn event(input: &[u8]) {
    let fields = lines(input).into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
    if let Some(event) = Event::from_fields(&fields) {
        let written = event.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(Event::from_fields(&written), Some(event));
    }
    _ = Piece::from_fields(&fields);
}

/// A status: lines of name and value.
pub fn status(input: &[u8]) {
    let fields = lines(input);
    if let Some(status) = Status::from_fields(&fields) {
        _ = (status.is_online(status.last_seen_ms), status.fields());
    }
}

/// The hash of a job: manifest, signature, targets.
pub fn record(input: &[u8]) {
    let values = split(input);
    let Ok(manifest) = Signed::<Manifest>::of_bytes(values[0].to_vec(), Vec::new()).open() else { return };
    if let Ok(record) = JobRecord::from_fields(fields(["manifest", "signature", "targets"], values), manifest.job) {
        assert!(record.id() == manifest.job && record.signed.bytes == values[0]);
        _ = record.fields();
    }
    assert!(JobRecord::from_fields(fields(["manifest", "signature", "targets"], values), JobId::new()).is_err());
}

/// A standing order with its signature, and an instant.
pub fn standing(input: &[u8]) {
    let [instant, voucher] = split(input);
    let instant = instant.iter().fold(0, |number: Millis, byte| number.wrapping_shl(8) | Millis::from(*byte));
    let Ok(standing) = Standing::of_voucher(voucher) else { return };
    let again = Standing::of_voucher(&standing.voucher()).expect("what was read once");
    assert_eq!(again.signed().bytes, standing.signed().bytes);
    let run = standing.run(instant, 0, Targets::new([host()]).root());
    assert!(run.has_its_own_id());
    let founded = standing.founds(&run);
    let longer = Manifest { timeout_ms: run.timeout_ms.wrapping_add(1), ..run.clone() };
    assert!(standing.founds(&longer).is_err());
    _ = (standing.selects(&host(), &BTreeMap::new()), founded.map_err(|error| error.to_string()));
    // Zones that nobody has do not end: their times are asked for one by one only.
    if let Schedule::Every { .. } = standing.order().schedule
        && let Ok(times) = standing.order().schedule.times()
        && let Some(next) = times.next_after(instant)
    {
        assert!(next > instant && times.is_instant(next));
    }
}

/// The hash of a rolling run: plan, signature, targets, two waves.
pub fn rollout(input: &[u8]) {
    let values = split(input);
    let Ok(plan) = Signed::<Plan>::of_bytes(values[0].to_vec(), Vec::new()).open() else { return };
    let fields = || fields(["plan", "signature", "targets", "wave:1", "wave:2"], values);
    if let Ok(record) = RolloutRecord::from_fields(fields(), plan.rollout) {
        assert!(record.id() == plan.rollout && record.signed.bytes == values[0]);
        let reached: Vec<_> = record.waves.values().flat_map(|wave| &wave.hosts).collect();
        assert!(reached.iter().all(|host| record.targets.has(host)), "no host is slipped in");
        assert!(reached.len() <= record.targets.len(), "no host is reached twice");
    }
    assert!(RolloutRecord::from_fields(fields(), JobId::new()).is_err());
}

/// A host's sealing key, as its facts have it, and as its file does.
pub fn sealing(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(signed) = SealingKey::from_fact(&text) {
        let again = SealingKey::from_fact(&SealingKey::to_fact(&signed)).expect("what was read once");
        assert_eq!((&again.bytes, &again.signature), (&signed.bytes, &signed.signature));
        if let Ok(key) = signed.open() {
            _ = key.seal(&JobKey::generate(), &digest(input));
        }
    }
    if let Some(key) = UnsealingKey::from_text(input) {
        assert!(UnsealingKey::from_text(key.to_text().as_bytes()).is_some());
    }
}

/// A signature over [`DOCUMENT`].
pub fn sshsig(input: &[u8]) {
    let Ok(signature) = sshsig::Signature::from_bytes(input) else { return };
    let written = signature.to_bytes();
    let again = sshsig::Signature::from_bytes(&written).expect("what we write can be read");
    assert_eq!(again.to_bytes(), written);
    assert_eq!(
        signature.verify(sshsig::JOB, DOCUMENT).is_ok(),
        again.verify(sshsig::JOB, DOCUMENT).is_ok(),
        "written anew, it says the same"
    );
    _ = (signature.signer().plain().fingerprint(), signature.to_pem());
}

/// A certificate.
pub fn certificate(input: &[u8]) {
    let Ok(certificate) = Certificate::from_bytes(input) else { return };
    assert_eq!(certificate.blob(), input);
    _ = (certificate.judge(ANN, NOW), certificate.key().fingerprint(), certificate.authority().fingerprint());
}

/// A trust file, with a signature that it is asked about.
pub fn signers(input: &[u8]) {
    let [signature, text] = split(input);
    let text = String::from_utf8_lossy(text);
    match Trust::parse(&text, None) {
        Ok(trust) => {
            for line in trust.lines() {
                _ = (line.is_for(ANN), line.allows(sshsig::JOB), line.key().fingerprint());
            }
            if let Ok(signature) = sshsig::Signature::from_bytes(signature) {
                _ = trust.verify(sshsig::JOB, ANN, DOCUMENT, &signature, NOW).map_err(|error| error.to_string());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A revocation list, with a signature that it is asked about.
pub fn revoked(input: &[u8]) {
    let [signature, list] = split(input);
    let Ok(revoked) = protocol::trust::revocation::Revocations::parse(list) else { return };
    if let Ok(signature) = sshsig::Signature::from_bytes(signature) {
        _ = revoked.reason(signature.signer());
    }
}

/// The file with the keys of hosts that `ctl` knows.
pub fn known_hosts(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(mut known) = KnownHosts::from_text(&text) else { return };
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let names = lines.flat_map(|line| line.split_ascii_whitespace().next().unwrap_or_default().split(','));
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let key = HOST_KEY.public();
    for name in names.into_iter().take(3) {
        assert!(!known.keys(name).is_empty(), "whoever is named has a key");
        known.remove(name);
        let without = KnownHosts::from_text(known.text()).expect("what we write can be read");
        assert!(without.keys(name).is_empty(), "who is forgotten stays so");
        known.append(name, &key);
        let with = KnownHosts::from_text(known.text()).expect("what we write can be read");
        assert!(matches!(with.keys(name), [only] if only.blob() == key.blob()), "who is pinned has one key");
    }
}

/// What is typed after `--where`, and as the name of hosts.
pub fn filter(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    _ = text.parse::<Word>();
    if let Ok(group) = text.parse::<Group>() {
        let saved = group.to_string();
        let read = saved.parse::<Group>().expect("what we save can be read");
        assert_eq!(read.to_string(), saved, "what we save reads back");
    }
    match text.parse::<Filter>() {
        Ok(filter) => {
            let unknown = filter.judge(&|_| Err(String::new()));
            assert!(matches!(unknown, Truth::Unknown(_)), "of what nobody knows, nothing is known");
            _ = filter.judge(&|_| Ok("1".into()));
        }
        Err(error) => assert!(error.to_string().ends_with('^'), "what is wrong has a place"),
    }
}

/// A reply of ssh-agent, without its length.
pub fn agent(input: &[u8]) {
    match Reply::from_bytes(input) {
        Some(Reply::Identities(identities)) => {
            for identity in identities {
                if let Ok(signer) = sshsig::Signer::from_bytes(&identity.blob) {
                    _ = signer.plain().fingerprint();
                }
            }
        }
        Some(Reply::Signature(signature)) => {
            let blob = HOST_KEY.public().blob().to_vec();
            if let Ok(signature) = sshsig::Signature::new(&blob, sshsig::JOB, signature) {
                assert!(
                    signature.verify(sshsig::JOB, DOCUMENT).is_err(),
                    "nobody can sign for a key that is not theirs"
                );
            }
        }
        Some(Reply::Refused) | None => {}
    }
}

/// What the worker can run.
static SPECS: LazyLock<Vec<ActionSpec>> = LazyLock::new(worker::actions::specs);

/// Settings with a policy, and an argument vector to decide about.
pub fn policy(input: &[u8]) {
    let [words, text] = split(input);
    let text = String::from_utf8_lossy(text).into_owned();
    let Ok(settings) = toml::from_str::<Settings>(&text) else { return };
    let origin = Origin { name: "worker.toml".to_owned(), text };
    let rules = Input { origin, groups: settings.groups, rules: settings.policy, broken: Vec::new() };
    let specs = &*SPECS;
    let Ok(policy) = Policy::new(&rules, &[], specs) else { return };
    let words = String::from_utf8_lossy(words).split(' ').map(str::to_owned).collect();
    let arguments = [("argv".to_owned(), Argument::List(words))].into();
    for spec in specs {
        if policy.decide(&[ANN], spec, &arguments).is_granted() {
            assert!(policy.allows_at_all(spec) && policy.approvals_needed(spec) < 2);
        }
    }
    _ = (policy.warnings(specs), policy.describe(), policy.may_cancel(ANN));
}

/// The part of the worker's settings that is about the policy.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    groups: toml::Table,
    policy: Vec<toml::Spanned<toml::Table>>,
}

/// How much an archive may unpack to here.
const BOUNDS: Bounds = Bounds { bytes: 256 * 1024, files: 64 };

/// An archive: the input as it is, and as a tar archive that is compressed.
pub fn unpack(input: &[u8]) {
    let place = env::temp_dir().join(format!("redfleet-fuzz-{}", process::id()));
    for archive in [input, &framed(input)] {
        _ = fs::remove_dir_all(&place);
        let draft = place.join("draft");
        fs::create_dir_all(&draft).expect("a directory");
        fs::write(place.join("outside"), "untouched").expect("a file");
        symlink("draft", place.join("link")).expect("a link");
        let unpacked = unpack_archive(archive, &draft, None, BOUNDS, &|| false);
        assert_eq!(fs::read_dir(&place).expect("a directory").count(), 3, "nothing is made outside");
        let outside = place.join("outside");
        assert_eq!(fs::metadata(&outside).expect("a file").nlink(), 1);
        assert_eq!(fs::read(outside).expect("a file"), b"untouched");
        let (mut files, mut bytes) = (0, 0);
        look(&draft, 0, &mut files, &mut bytes);
        assert!(bytes <= BOUNDS.bytes, "{bytes} bytes");
        match unpacked {
            Ok(unpacked) => assert!(unpacked.files <= BOUNDS.files && files > 0 && bytes <= unpacked.bytes),
            Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
        }
    }
    _ = fs::remove_dir_all(&place);
}

/// Looks whether all below a directory, which is so deep below the root, may be in a release.
fn look(directory: &Path, depth: usize, files: &mut u64, bytes: &mut u64) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let about = entry.metadata().expect("what is there");
        *files += 1;
        if about.is_dir() {
            look(&entry.path(), depth + 1, files, bytes);
        } else if about.is_symlink() {
            let target = fs::read_link(entry.path()).expect("a link");
            let up = target.components().filter(|part| *part == Component::ParentDir).count();
            assert!(target.is_relative() && up <= depth, "{target:?}");
        } else {
            assert!(about.is_file(), "{:?}", entry.path());
            // A file with two names counts once.
            *bytes += about.len() / about.nlink();
        }
        assert!(about.is_symlink() || about.mode() & 0o7022 == 0, "{:o}", about.mode());
    }
}

/// A frame of zstd, with what is in it as it is.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    let mut chunks = bytes.chunks(64 * 1024).peekable();
    while let Some(chunk) = chunks.next() {
        let header = u32::try_from(chunk.len()).expect("a small number") << 3 | u32::from(chunks.peek().is_none());
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(chunk);
    }
    frame
}
