//! Names off images, images out of the store, and what nothing needs any more.

use std::collections::BTreeSet;

use super::content::{entries, remove_file};
use super::records::Table;
use super::types::{Leftovers, PruneReport, RemoveOptions, Removed};
use super::Inner;
use crate::host::lock::{Locked, Mode};
use crate::host::{ImageError, Reference};
use crate::Digest;

pub(super) async fn remove(
    store: &Inner,
    name: &str,
    options: &RemoveOptions,
) -> Result<Vec<Removed>, ImageError> {
    let removed = store
        .records
        .change(|table| {
            let (image, reference) = super::find(table, name)?;
            match reference {
                Some(reference) => remove_name(table, name, image, &reference, options),
                None => remove_image(table, name, image, options),
            }
        })
        .await?;
    if removed
        .iter()
        .any(|step| matches!(step, Removed::Deleted(_)))
    {
        collect_unreferenced(store)?;
    }
    Ok(removed)
}

/// Takes one name off; with the last tag the image goes too.
fn remove_name(
    table: &mut Table,
    name: &str,
    image: Digest,
    reference: &Reference,
    options: &RemoveOptions,
) -> Result<Vec<Removed>, ImageError> {
    let tags_left = table
        .names_of(&image)
        .filter(|other| *other != reference && other.tag().is_some())
        .count();
    let last = if reference.tag().is_some() {
        tags_left == 0
    } else {
        table.names_of(&image).all(|other| other == reference)
    };
    if last {
        check_unused(name, image, options)?;
    }
    table.names.remove(reference);
    let mut removed = vec![Removed::Untagged(reference.familiar())];
    if reference.tag().is_some() {
        // Digests of a repository stay only as long as one of its tags does.
        let repository = reference.familiar_name();
        let of_repository = |other: &&Reference| other.familiar_name() == repository;
        if !table
            .names_of(&image)
            .filter(of_repository)
            .any(|other| other.tag().is_some())
        {
            let digests: Vec<Reference> = table
                .names_of(&image)
                .filter(of_repository)
                .cloned()
                .collect();
            for digest in digests {
                table.names.remove(&digest);
                removed.push(Removed::Untagged(digest.familiar()));
            }
        }
    }
    if last && !options.in_use.contains_key(&image) && table.names_of(&image).next().is_none() {
        table.images.remove(&image);
        removed.push(Removed::Deleted(image));
    }
    Ok(removed)
}

/// By ID: all names at once, if they are of one repository or the caller insists.
fn remove_image(
    table: &mut Table,
    name: &str,
    image: Digest,
    options: &RemoveOptions,
) -> Result<Vec<Removed>, ImageError> {
    check_unused(name, image, options)?;
    let names: Vec<Reference> = table.names_of(&image).cloned().collect();
    let repositories: BTreeSet<String> = names.iter().map(Reference::familiar_name).collect();
    let tags = names.iter().filter(|name| name.tag().is_some()).count();
    if !options.force && (repositories.len() > 1 || tags > 1) {
        return Err(ImageError::ManyReferences {
            image: image.to_string(),
        });
    }
    let mut removed = Vec::new();
    for name in names {
        table.names.remove(&name);
        removed.push(Removed::Untagged(name.familiar()));
    }
    // A container's image stays until the container goes; without names, prune finds it then.
    if !options.in_use.contains_key(&image) {
        table.images.remove(&image);
        removed.push(Removed::Deleted(image));
    }
    Ok(removed)
}

fn check_unused(name: &str, image: Digest, options: &RemoveOptions) -> Result<(), ImageError> {
    match options.in_use.get(&image) {
        Some(container) if !options.force => Err(ImageError::UsedByContainer {
            name: name.to_owned(),
            container: container.clone(),
            image: image.hex()[..12].to_owned(),
        }),
        _ => Ok(()),
    }
}

pub(super) async fn prune(
    store: &Inner,
    all: bool,
    in_use: &BTreeSet<Digest>,
) -> Result<PruneReport, ImageError> {
    let removed = store
        .records
        .change(|table| {
            let mut removed = Vec::new();
            let candidates: Vec<Digest> = table
                .images
                .keys()
                .copied()
                .filter(|image| !in_use.contains(image))
                .collect();
            for image in candidates {
                let tagged = table.names_of(&image).any(|name| name.tag().is_some());
                if tagged && !all {
                    continue;
                }
                let names: Vec<Reference> = table.names_of(&image).cloned().collect();
                for name in names {
                    table.names.remove(&name);
                    removed.push(Removed::Untagged(name.familiar()));
                }
                table.images.remove(&image);
                removed.push(Removed::Deleted(image));
            }
            Ok(removed)
        })
        .await?;
    let mut reclaimed = collect_unreferenced(store)?.1;
    for path in entries(&store.content.partial_folder())? {
        // A locked one is being written.
        if let Some(locked) = Locked::try_open(&path, Mode::Exclusive)? {
            reclaimed += locked.file.metadata().map_or(0, |metadata| metadata.len());
            remove_file(&path)?;
        }
    }
    Ok(PruneReport { removed, reclaimed })
}

/// What a crash left behind.
pub(super) fn collect_leftovers(store: &Inner) -> Result<Leftovers, ImageError> {
    let mut temporary = 0;
    let mut candidates = entries(&store.content.temporary_folder())?;
    for folder in store.unpacked.folders() {
        candidates.extend(
            entries(&folder)?
                .into_iter()
                .filter(|path| path.extension().is_some_and(|e| e == "tmp")),
        );
    }
    for path in candidates {
        if let Some(_locked) = Locked::try_open(&path, Mode::Exclusive)? {
            remove_file(&path)?;
            temporary += 1;
        }
    }
    let (unreferenced, _) = collect_unreferenced(store)?;
    Ok(Leftovers {
        temporary,
        unreferenced,
    })
}

/// Removes blobs and unpacked images that no image needs; gives their count and bytes. Does nothing
/// while a pull, load or unpack runs: what that brings has no record yet. The next one catches up.
pub(super) fn collect_unreferenced(store: &Inner) -> Result<(usize, u64), ImageError> {
    let Some(_exclusive) = Locked::try_open(&store.lease_path(), Mode::Exclusive)? else {
        return Ok((0, 0));
    };
    let table = store.records.read()?;
    let needed = table.blobs();
    let (mut count, mut bytes) = (0, 0);
    for (digest, size) in store.content.list()? {
        if !needed.contains(&digest) {
            store.content.remove(&digest)?;
            count += 1;
            bytes += size;
        }
    }
    let variants = table.images.values().flat_map(|image| &image.variants);
    let wanted: BTreeSet<_> = variants
        .flat_map(|variant| store.unpacked.needed(&variant.layers))
        .collect();
    for path in store.unpacked.list()? {
        if !wanted.contains(&path) {
            // Sparse files: what is really on disk.
            bytes += std::fs::metadata(&path).map_or(0, |metadata| {
                use std::os::unix::fs::MetadataExt as _;
                metadata.blocks() * 512
            });
            remove_file(&path)?;
            count += 1;
        }
    }
    Ok((count, bytes))
}
