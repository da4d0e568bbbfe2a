//! Trust files and signatures, compared with the real `ssh-keygen`: what it refuses is never accepted here. Where we
//! refuse what it accepts, the reason is counted, and named in SPECIFICATION.md.

mod certificates;
mod crafted;
mod files;
mod revocation;
mod signatures;
mod stock;
mod verdict;

/// The reasons for which we may be stricter are those that the specification gives.
#[test]
fn stricter_only_where_the_specification_says_so() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../SPECIFICATION.md")).expect("a document");
    let (_, section) = text.split_once("\n## Trust files\n").expect("a section");
    let (_, table) = section.split_once("\n| what | because |\n").expect("a table");
    let (table, _) = table.split_once("\n\n").expect("its end");
    for reason in verdict::reasons() {
        assert!(table.contains(reason), "SPECIFICATION.md does not say that we refuse {reason}");
    }
}
