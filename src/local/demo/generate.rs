//! A generated image: real layers that a client could unpack, of exactly the size asked for,
//! the same bytes each time.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use bytesize::ByteSize;
use fastrand::Rng;
use flotilla_proto::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::oci_client::Blobs;

/// An image whose blobs lie in files.
#[derive(Debug)]
pub(crate) struct GeneratedImage {
    /// The OCI manifest.
    pub(crate) manifest: Bytes,
    /// Config and layers.
    pub(crate) blobs: Blobs,
    directory: PathBuf,
}

impl GeneratedImage {
    /// The file of a blob of [`GeneratedImage::blobs`].
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }
}

/// The manifest's media type.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes an image of `count` layers, `size` bytes together, into `directory`. Blocks.
pub(crate) fn generate(
    size: ByteSize,
    count: u16,
    directory: &Path,
) -> Result<GeneratedImage, GenerateError> {
    let mut layers = Vec::new();
    for (index, len) in split(size.as_u64(), count)?.into_iter().enumerate() {
        let path = directory.join("layer");
        let digest = write_layer(&path, index, len)?;
        fs::rename(path, directory.join(digest.hex()))?;
        layers.push((digest, len));
    }
    let config = config(&layers);
    let config_digest = Digest::of(&config);
    fs::write(directory.join(config_digest.hex()), &config)?;
    let manifest = manifest((config_digest, config.len() as u64), &layers);
    let mut blobs: Blobs = layers.into_iter().collect();
    blobs.insert(config_digest, config.len() as u64);
    Ok(GeneratedImage { manifest, blobs, directory: directory.to_owned() })
}

/// `total` bytes over `count` layers as evenly as it goes, the first ones one byte longer.
fn split(total: u64, count: u16) -> Result<Vec<u64>, GenerateError> {
    if count == 0 || count > MAX_LAYERS {
        return Err(GenerateError::Layers);
    }
    let count = u64::from(count);
    if total < count {
        return Err(GenerateError::TooSmall { total, count });
    }
    Ok((0..count).map(|index| total / count + u64::from(index < total % count)).collect())
}

/// Layers differ in what their generator starts from; those of one byte in the byte.
fn write_layer(path: &Path, index: usize, len: u64) -> io::Result<Digest> {
    let mut layer = Hashing { inner: BufWriter::new(File::create(path)?), hash: Sha256::new() };
    let mut random = Rng::with_seed(SEED + index as u64);
    if len < MIN_TAR_LEN {
        let distinct = u8::try_from(index).expect("there are at most 256 layers");
        layer.write_all(&[distinct])?;
        write_random(&mut layer, &mut random, len - 1)?;
    } else {
        write_tar(&mut layer, &mut random, index, len)?;
    }
    layer.inner.flush()?;
    Ok(Digest::from_bytes(layer.hash.finalize().into()))
}

/// A tar file of exactly `len` bytes: one header, one file in full blocks, and zeros, at
/// least the two blocks that end an archive.
fn write_tar(out: &mut impl Write, random: &mut Rng, index: usize, len: u64) -> io::Result<()> {
    let content_len = (len - TAR_BLOCK - TAR_END) / TAR_BLOCK * TAR_BLOCK;
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("flotilla/layer-{index}"))?;
    header.set_size(content_len);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    write_random(out, random, content_len)?;
    let zeros = len - TAR_BLOCK - content_len;
    io::copy(&mut io::Read::take(io::repeat(0), zeros), out)?;
    Ok(())
}

fn write_random(out: &mut impl Write, random: &mut Rng, mut len: u64) -> io::Result<()> {
    let mut buffer = vec![0; WRITE_LEN];
    while len > 0 {
        let now = usize::try_from(len).map_or(WRITE_LEN, |len| len.min(WRITE_LEN));
        random.fill(&mut buffer[..now]);
        out.write_all(&buffer[..now])?;
        len -= now as u64;
    }
    Ok(())
}

/// The layers are not compressed, so their digests are their diff ids (image spec, "Layer DiffID").
fn config(layers: &[(Digest, u64)]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    config.to_string().into_bytes()
}

fn manifest(config: (Digest, u64), layers: &[(Digest, u64)]) -> Bytes {
    let descriptor = |media_type: &str, (digest, size): (Digest, u64)| json!({ "mediaType": media_type, "digest": digest, "size": size });
    let layers: Vec<_> =
        layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", *layer)).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
    });
    manifest.to_string().into()
}

/// Hashes what it writes.
struct Hashing {
    inner: BufWriter<File>,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// As many as one byte can tell apart; container engines stop at 127.
pub(crate) const MAX_LAYERS: u16 = 256;

/// Any fixed number: two runs generate the same image.
const SEED: u64 = 0xF107_111A;

/// POSIX.1-2017, `pax`, "ustar Interchange Format".
const TAR_BLOCK: u64 = 512;

/// Two zero blocks end an archive.
const TAR_END: u64 = 2 * TAR_BLOCK;

/// The smallest archive with a block of content.
const MIN_TAR_LEN: u64 = TAR_BLOCK + TAR_BLOCK + TAR_END;

/// Random bytes made at once.
const WRITE_LEN: usize = 256 * 1024;

/// Why no image was generated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerateError {
    /// No layer, or too many.
    #[error("an image here has 1 to {MAX_LAYERS} layers")]
    Layers,
    /// Each layer has at least one byte.
    #[error("{total} bytes are too few for {count} layers of at least one byte")]
    TooSmall {
        /// Bytes asked for.
        total: u64,
        /// Layers asked for.
        count: u64,
    },
    /// The files.
    #[error("write the image's files")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_are_distinct_and_together_exactly_as_long_as_asked() {
        for (total, count) in
            [(1, 1), (256, 256), (300, 256), (40 * 1024, 6), (2047, 1), (2048, 1), (1_000_003, 7)]
        {
            let directory = tempfile::tempdir().unwrap();
            let image = generate(ByteSize(total), count, directory.path()).unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
            assert_eq!(manifest["layers"].as_array().unwrap().len(), usize::from(count));
            assert_eq!(image.blobs.len(), usize::from(count) + 1, "{total} bytes, {count} layers");
            let config_len = manifest["config"]["size"].as_u64().unwrap();
            assert_eq!(image.blobs.values().sum::<u64>() - config_len, total);
            for (digest, len) in &image.blobs {
                let content = fs::read(image.path(digest)).unwrap();
                assert_eq!((Digest::of(&content), content.len() as u64), (*digest, *len));
            }
        }
    }

    #[test]
    fn a_layer_unpacks_to_one_file() {
        for len in [MIN_TAR_LEN, MIN_TAR_LEN + 1, 100_000, 1 << 20] {
            let directory = tempfile::tempdir().unwrap();
            let image = generate(ByteSize(len), 1, directory.path()).unwrap();
            let (digest, _) = image.blobs.iter().find(|(_, size)| **size == len).unwrap();
            let mut archive = tar::Archive::new(File::open(image.path(digest)).unwrap());
            let entries: Vec<_> = archive.entries().unwrap().map(Result::unwrap).collect();
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].path().unwrap().to_str(), Some("flotilla/layer-0"));
            assert!(entries[0].size() > 0);
        }
    }

    #[test]
    fn two_runs_generate_the_same_image() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let generate = |directory: &Path| generate(ByteSize::kib(40), 3, directory).unwrap().manifest;
        assert_eq!(generate(one.path()), generate(other.path()));
    }

    #[test]
    fn an_impossible_size_is_refused() {
        let refusal =
            |total, count| generate(ByteSize(total), count, Path::new("/")).unwrap_err().to_string();
        assert_eq!(refusal(0, 4), "0 bytes are too few for 4 layers of at least one byte");
        assert_eq!(refusal(3, 4), "3 bytes are too few for 4 layers of at least one byte");
        assert_eq!(refusal(10, 0), "an image here has 1 to 256 layers");
        assert_eq!(refusal(1000, 257), "an image here has 1 to 256 layers");
    }
}
