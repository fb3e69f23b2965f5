//! `millpond spool`: lists, shows and exports segments, and requeues dead ones.

mod export;
mod list;
mod requeue;
mod show;

use std::path::PathBuf;
use std::sync::Arc;

use super::CliError;
use super::args::{SpoolCommand, SpoolDir};
use super::environment::Environment;
use super::text::printable;
use crate::disk::RealDisk;
use crate::segment::SegmentId;
use crate::spool::{FoundSegment, OfflineSpool, SegmentContent};

pub(super) fn run(command: SpoolCommand, environment: &Environment) -> Result<(), CliError> {
    match command {
        SpoolCommand::Ls { json, spool } => list::run(&Place::open(&spool, environment)?, json),
        SpoolCommand::Show { segment, json, spool } => show::run(&Place::open(&spool, environment)?, segment, json),
        SpoolCommand::Export { segment, out, raw, spool } => {
            export::run(&Place::open(&spool, environment)?, segment, &out, raw)
        }
        SpoolCommand::Requeue { segments, yes, spool } => {
            requeue::run(&Place::open(&spool, environment)?, &segments, yes)
        }
    }
}

/// An existing spool.
pub(super) struct Place {
    pub(super) spool: OfflineSpool,
    pub(super) root: PathBuf,
}

impl Place {
    pub(super) fn open(arguments: &SpoolDir, environment: &Environment) -> Result<Self, CliError> {
        let root = arguments.dir.clone().unwrap_or_else(|| environment.spool_dir());
        match std::fs::metadata(&root) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(CliError::Usage(format!(
                    "{} is no folder; set SPOOL_DIR as the server has it",
                    root.display()
                )));
            }
            Err(error) => {
                let root = root.display();
                return Err(CliError::Usage(format!(
                    "{root}: {error}; set SPOOL_DIR as the server has it, or use --spool"
                )));
            }
        }
        Ok(Self { spool: OfflineSpool::new(root.clone(), Arc::new(RealDisk)), root })
    }

    /// Finds a segment and reads it.
    fn read(&self, id: SegmentId) -> Result<(FoundSegment, SegmentContent), CliError> {
        let found = self.spool.find(id).map_err(|error| self.failed(&error))?;
        let Some(found) = found else {
            let root = self.root.display();
            return Err(CliError::Failed(format!(
                "{root} holds no segment {id}: millpond spool ls lists the segments"
            )));
        };
        let content = self.spool.read(&found).map_err(|error| self.failed(&error))?;
        Ok((found, content))
    }

    /// An error of the spool, for people.
    pub(super) fn failed(&self, error: &dyn std::error::Error) -> CliError {
        CliError::Failed(format!("the spool {}: {}", self.root.display(), printable(&error.to_string())))
    }
}
