//! `lambda-dpo convert`: records → samples with their target distributions, without tokenising them.

use std::io;
use std::path::Path;

use anyhow::Result;

use crate::cli::ConvertArgs;
use crate::console::{Progress, say};
use crate::files::atomic::NewFile;
use crate::files::hub::{Hub, Use};
use crate::files::record_files::RecordFiles;
use crate::plugin::{ConvertOptions, Plugin, PluginError, Reader};

pub(super) fn run(args: &ConvertArgs, plugin: Option<&Path>) -> Result<()> {
    let plugin = Plugin::load(plugin)?;
    let out = NewFile::create(&args.out)?;
    let files = RecordFiles::find(&Hub::from_env(), &args.records, Use::Train)?;
    let named = |error: PluginError| error.reworded(|message| files.with_names(message));
    let options = ConvertOptions {
        format: args.format,
        dimensions: args.dimensions.clone(),
        missing_rating: args.missing.value(),
        temperature: args.temperature,
        ..ConvertOptions::default()
    };
    let mut reader = plugin.reader(&files, &options).map_err(named)?;
    write_samples(&mut reader, out, named)?;
    let lines = reader.report()?.describe(0);
    say(&format!("{}: {}", args.out.display(), lines.join("; ")));
    Ok(())
}

fn write_samples(reader: &mut Reader, out: NewFile, named: impl Fn(PluginError) -> PluginError) -> Result<()> {
    let mut progress = Progress::new("converting", 0, 0);
    let mut failed: Option<PluginError> = None;
    let written = out.fill(|file| {
        let mut num_samples = 0;
        loop {
            match reader.next_sample() {
                Ok(Some(sample)) => writeln!(file, "{sample}")?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    failed = Some(error);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            num_samples += 1;
            progress.update(num_samples, 0, "");
        }
    });
    progress.clear();
    match failed {
        Some(error) => Err(named(error).into()),
        None => Ok(written?),
    }
}
