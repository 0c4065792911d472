//! Merges layer files (tar, plain or compressed) into one EROFS image, as the guest agent does:
//! `layers-to-erofs OUTPUT LAYER...`, lowest layer first. For trying and measuring the unpacker.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use hull_image::unpack::{diff_id, unpack, FileOutput, LayerSource, Limits, NoProgress};
use hull_image::{Compression, Digest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let output = arguments
        .next()
        .ok_or("usage: layers-to-erofs OUTPUT LAYER...")?;
    let files: Vec<File> = arguments.map(File::open).collect::<Result<_, _>>()?;
    let mut layers = Vec::new();
    for file in &files {
        let length = file.metadata()?.len();
        let mut head = Vec::new();
        file.take(1 << 16).read_to_end(&mut head)?;
        // The digest is for messages only.
        let source = |diff_id| {
            LayerSource::from_file_range(
                file,
                0,
                length,
                Compression::None,
                diff_id,
                Digest::of(&head),
            )
        };
        layers.push(source(diff_id(source(hull_image::DiffId::of(b"")))?));
    }
    let started = Instant::now();
    let mut output = FileOutput::new(File::create(output)?);
    let unpacked = unpack(layers, &Limits::default(), &mut output, &NoProgress)?;
    println!(
        "{} files, {} bytes, {:?}",
        unpacked.files,
        unpacked.image_length,
        started.elapsed()
    );
    Ok(())
}
