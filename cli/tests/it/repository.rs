//! What lies in the repository beside the code fits the code. `UPDATE=1` writes what is generated anew.

use std::{collections::BTreeSet, fs, path::PathBuf};

use clap::CommandFactory;
use spillway_cli::{Cli, place};
use spillway_crds::settings;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn every_example_can_be_run_as_it_is() {
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let (pipeline, secrets) = place::read_pipeline(&path).unwrap_or_else(|error| panic!("{error}"));
        let (tenants, refused) = settings::tenants_file(&pipeline, &secrets);
        assert!(!tenants.tenants.is_empty() && refused.is_empty(), "{}: {refused:?}", path.display());
    }
}

#[test]
fn the_columns_page_is_that_of_the_model() {
    let path = root().join("docs/columns.md");
    let generated = spillway_model::columns::reference_markdown();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap_or_default() == generated, "docs/columns.md is stale: make crd");
}

#[test]
fn every_command_and_flag_is_on_the_command_line_page() {
    let page = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let mut missing = BTreeSet::new();
    let mut commands: Vec<clap::Command> = Cli::command().get_subcommands().cloned().collect();
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().cloned());
        if !page.contains(command.get_name()) {
            missing.insert(command.get_name().to_owned());
        }
        let flags = command.get_arguments().filter_map(|argument| argument.get_long());
        missing.extend(
            flags
                .map(|flag| format!("--{flag}"))
                .filter(|flag| flag != "--help" && !page.contains(flag.as_str())),
        );
    }
    assert!(missing.is_empty(), "docs/cli.md does not speak of {missing:?}");
}

#[test]
fn every_dependency_has_its_reason() {
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let mut missing = BTreeSet::new();
    for entry in fs::read_dir(root()).unwrap() {
        let Ok(manifest) = fs::read_to_string(entry.unwrap().path().join("Cargo.toml")) else { continue };
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]") && line.starts_with(|c: char| c.is_ascii_lowercase())
            {
                let name = line.split(['.', ' ', '=']).next().unwrap();
                if !name.starts_with("spillway-") && !page.contains(name) {
                    missing.insert(name.to_owned());
                }
            }
        }
    }
    assert!(missing.is_empty(), "docs/dependencies.md does not speak of {missing:?}");
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut dead = Vec::new();
    for page in pages.iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let is_outside = target.contains("://") || file.is_empty();
            if !is_outside && !page.parent().unwrap().join(file).exists() {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
