//! Unpacks a body. Memory is bounded by the size of the largest body, whatever came.

use std::{borrow::Cow, fmt, io::Read};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use super::{
    content::Content,
    fault::{Fault, FaultCode, quoted},
};

/// The largest body that is read, in bytes, after it was unpacked.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The largest body that is unpacked, in bytes: gzip makes what it cannot compress a bit longer.
const MAX_PACKED_BYTES: usize = MAX_BODY_BYTES + 1024;

/// Encodings that change no byte. Some clients write the charset here: kombu, Spring.
const PLAIN: [&str; 8] = ["identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "7bit", "8bit"];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const GZIP: [&str; 2] = ["gzip", "x-gzip"];
/// kombu's name for zlib's format, whichever name the sender chose.
const KOMBU_GZIP: &str = "application/x-gzip";

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    /// gzip or zlib, by its first bytes.
    Kombu,
}

/// The body without its encoding.
///
/// # Errors
/// If it is too large, or not in an encoding that is read.
pub fn unpack<'a>(content: &Content<'_>, body: &'a [u8]) -> Result<Cow<'a, [u8]>, Fault> {
    let packing = packing(content)?;
    let max = if packing.is_none() { MAX_BODY_BYTES } else { MAX_PACKED_BYTES };
    if body.len() > max {
        let detail = format!("the body has {} bytes; at most {MAX_BODY_BYTES} are read", body.len());
        return Err(Fault::new(FaultCode::TooLarge, detail));
    }
    match packing {
        None => Ok(body.into()),
        Some(Packing::Kombu) if !body.starts_with(&GZIP_MAGIC) => {
            let mut zlib = ZlibDecoder::new(body);
            let unpacked = read(&mut zlib)?;
            match zlib.into_inner() {
                [] => Ok(unpacked.into()),
                _ => Err(not_packed("something follows its end")),
            }
        }
        // Fails if something else than gzip follows the end.
        Some(Packing::Gzip | Packing::Kombu) => read(&mut MultiGzDecoder::new(body)).map(Cow::from),
    }
}

/// Reads to the end, where the checksum is compared; but no more than a body may have.
fn read(packed: &mut impl Read) -> Result<Vec<u8>, Fault> {
    let mut unpacked = Vec::new();
    packed.take(MAX_BODY_BYTES as u64 + 1).read_to_end(&mut unpacked).map_err(not_packed)?;
    if unpacked.len() > MAX_BODY_BYTES {
        let detail = format!("the body has more than {MAX_BODY_BYTES} bytes after it was unpacked");
        return Err(Fault::new(FaultCode::TooLarge, detail));
    }
    Ok(unpacked)
}

fn not_packed(why: impl fmt::Display) -> Fault {
    Fault::malformed(format!("the body is not whole gzip: {why}"))
}

/// Whether the body is as it was sent, neither packed nor in an encoding that is not read.
pub fn is_plain(content: &Content<'_>) -> bool {
    matches!(packing(content), Ok(None))
}

fn packing(content: &Content<'_>) -> Result<Option<Packing>, Fault> {
    let mut packing = None;
    if let Some(encoding) = content.content_encoding {
        let is = |known: &[&str], given: &str| known.iter().any(|name| given.eq_ignore_ascii_case(name));
        // Spring writes "gzip:UTF-8".
        for given in encoding.split([',', ':']).map(str::trim).filter(|given| !given.is_empty()) {
            if is(&GZIP, given) && packing.is_none() {
                packing = Some(Packing::Gzip);
            } else if !is(&PLAIN, given) {
                return Err(unsupported("content encoding", encoding));
            }
        }
    }
    match content.compression {
        Some(KOMBU_GZIP) if packing.is_none() => Ok(Some(Packing::Kombu)),
        Some(compression) if compression.starts_with("application/") => {
            Err(unsupported("header compression", compression))
        }
        // Not kombu's.
        _ => Ok(packing),
    }
}

fn unsupported(what: &str, given: &str) -> Fault {
    let detail = format!("the {what} is {}; only gzip is unpacked, and once", quoted(given));
    Fault::new(FaultCode::UnsupportedContentType, detail)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    const BODY: &[u8] = br#"{"customer_id":191}"#;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).expect("written");
        encoder.finish().expect("finished")
    }

    fn zlib(body: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).expect("written");
        encoder.finish().expect("finished")
    }

    fn encoded(encoding: &str) -> Content<'_> {
        Content { content_encoding: Some(encoding), ..Content::default() }
    }

    fn kombu(compression: &str) -> Content<'_> {
        Content { compression: Some(compression), ..encoded("utf-8") }
    }

    fn code(content: &Content<'_>, body: &[u8]) -> FaultCode {
        unpack(content, body).expect_err("a fault").code
    }

    #[test]
    fn gzip_is_unpacked_and_what_names_a_charset_changes_nothing() {
        for encoding in ["gzip", "x-gzip", " GZIP ", "gzip:UTF-8", "identity, gzip"] {
            assert_eq!(unpack(&encoded(encoding), &gzip(BODY)).expect(encoding), BODY);
        }
        for encoding in ["", " ", "identity", "utf-8", "UTF-8", "binary", "us-ascii"] {
            assert_eq!(unpack(&encoded(encoding), BODY).expect(encoding), BODY);
        }
        let members = [gzip(&BODY[..7]), gzip(&BODY[7..])].concat();
        assert_eq!(unpack(&encoded("gzip"), &members).expect("both members"), BODY);
    }

    #[test]
    fn what_kombu_compresses_is_unpacked() {
        for packed in [zlib(BODY), gzip(BODY)] {
            assert_eq!(unpack(&kombu("application/x-gzip"), &packed).expect("unpacked"), BODY);
        }
        assert_eq!(unpack(&kombu("none"), BODY).expect("another's header"), BODY);
        assert_eq!(code(&kombu("application/zstd"), BODY), FaultCode::UnsupportedContentType);
        assert_eq!(code(&kombu("application/x-gzip"), BODY), FaultCode::Malformed);
        let with_rest = [zlib(BODY), b"rest".to_vec()].concat();
        assert_eq!(code(&kombu("application/x-gzip"), &with_rest), FaultCode::Malformed);
    }

    #[test]
    fn another_encoding_is_named() {
        for encoding in ["br", "deflate", "zstd", "compress", "gzip, br", "gzip, gzip"] {
            let fault = unpack(&encoded(encoding), BODY).expect_err(encoding);
            assert_eq!(fault.code, FaultCode::UnsupportedContentType);
            assert!(fault.detail.starts_with(&format!("the content encoding is \"{encoding}\"; ")));
        }
    }

    #[test]
    fn what_is_not_whole_gzip_is_malformed() {
        let packed = gzip(BODY);
        for length in 0..packed.len() {
            assert_eq!(code(&encoded("gzip"), &packed[..length]), FaultCode::Malformed, "{length} bytes");
        }
        for rest in [&b"x"[..], b"\0\0\0", BODY, &[0x1f, 0x8b]] {
            let with_rest = [&packed, rest].concat();
            assert_eq!(code(&encoded("gzip"), &with_rest), FaultCode::Malformed, "{rest:?}");
        }
        let mut wrong_sum = packed.clone();
        let at = packed.len() - 8;
        wrong_sum[at] ^= 1;
        assert_eq!(code(&encoded("gzip"), &wrong_sum), FaultCode::Malformed);
        assert_eq!(code(&encoded("gzip"), BODY), FaultCode::Malformed);
    }

    #[test]
    fn a_body_has_at_most_64_kib_after_it_was_unpacked() {
        let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(MAX_BODY_BYTES).collect();
        let packed = gzip(&random);
        assert!(packed.len() > MAX_BODY_BYTES);
        assert_eq!(unpack(&encoded("gzip"), &packed).expect("64 KiB"), random);
        assert_eq!(code(&encoded("gzip"), &gzip(&[0; MAX_BODY_BYTES + 1])), FaultCode::TooLarge);
        assert_eq!(code(&encoded("gzip"), &vec![0; MAX_PACKED_BYTES + 1]), FaultCode::TooLarge);
        assert_eq!(code(&Content::default(), &vec![0; MAX_BODY_BYTES + 1]), FaultCode::TooLarge);
    }

    #[test]
    fn a_bomb_is_too_large_and_is_never_unpacked() {
        let bomb = gzip(&vec![0; 16 * 1024 * 1024]);
        assert!(bomb.len() < MAX_PACKED_BYTES, "{} bytes", bomb.len());
        let mut decoder = MultiGzDecoder::new(&bomb[..]);
        assert_eq!(read(&mut decoder).expect_err("a fault").code, FaultCode::TooLarge);
        let unread = decoder.into_inner().len();
        assert!(unread > bomb.len() / 2, "{unread} of {} bytes are not even read", bomb.len());
    }
}
