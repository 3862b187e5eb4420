//! Parts of blobs.

use hyper::Method;
use hyper::header::IF_RANGE;

use super::super::content::Content;
use super::super::row::{Act, Expect, Row};
use super::{MAIN, RFC_RANGE, blob};
use crate::image::Blob;

/// What is asked before anything else.
pub(super) fn first(loose: &Blob) -> Vec<Row> {
    let size = loose.content().len();
    vec![
        Row::new(
            "range_first_of_all",
            "containerd resumes in a new pull: no manifest came before",
            RFC_RANGE,
        )
        .get(blob(loose))
        .range("bytes=1048576-")
        .part(loose, 1_048_576, size - 1),
        Row::new("range_then_the_whole", "what came as a part is part of the whole", RFC_RANGE)
            .get(blob(loose))
            .whole(loose),
    ]
}

pub(super) fn rows(content: &Content) -> Vec<Row> {
    let mut rows = parts(content);
    rows.extend(ignored(content));
    rows.extend(unsatisfiable(content));
    rows.extend(conditional(content));
    rows.push(left_early(content));
    rows
}

fn parts(content: &Content) -> Vec<Row> {
    let (large, tiny) = (&content.image.layers[0], &content.image.layers[2]);
    let last = large.content().len() - 1;
    let part = |name, why, header: &str, from: usize, to: usize| {
        Row::new(name, why, RFC_RANGE).get(blob(large)).range(header).part(large, from, to)
    };
    vec![
        part("range_within_a_piece", "a-b", "bytes=1000-1999", 1000, 1999),
        part("range_over_pieces", "a-b", "bytes=1048000-3146000", 1_048_000, 3_146_000),
        part("range_first_byte", "what a check for permission asks", "bytes=0-0", 0, 0),
        part("range_from_start", "containerd 2.1 begins with it", "bytes=0-", 0, last),
        part("range_to_end", "dockerd resumes with it", "bytes=4000000-", 4_000_000, last),
        part("range_last_bytes", "-n", "bytes=-5000", last - 4999, last),
        part("range_cut_at_end", "a range may ask for too much", "bytes=5000000-99999999", 5_000_000, last),
        Row::new("range_of_tiny", "small blobs have parts too", RFC_RANGE)
            .get(blob(tiny))
            .range("bytes=3-9")
            .part(tiny, 3, 9),
    ]
}

/// A server may give the whole (RFC 9110 §14.2).
fn ignored(content: &Content) -> Vec<Row> {
    let layer = &content.image.layers[1];
    let whole =
        |name, why, header: &str| Row::new(name, why, RFC_RANGE).get(blob(layer)).range(header).whole(layer);
    vec![
        Row::new("range_several", "several parts come in one answer", "RFC 9110 §14.6")
            .get(blob(layer))
            .range("bytes=20-29,0-9")
            .parts(layer, &[(20, 29), (0, 9)])
            .differs("what stands between the parts is each server's own"),
        whole("range_of_other_unit", "an unknown unit is ignored", "items=0-1")
            .differs("Go's server takes it for malformed and sends 416"),
        Row::new("range_head", "only a GET has parts", "RFC 9110 §14.2")
            .method(Method::HEAD, blob(layer))
            .range("bytes=0-9")
            .whole(layer)
            .differs("Go's server sends 206 to a HEAD"),
    ]
}

fn unsatisfiable(content: &Content) -> Vec<Row> {
    let layer = &content.image.layers[1];
    let size = layer.size();
    let why_differs = "the body is the door's: docker-registry 2.8.2 lies about the length of its own";
    let beyond = |name, header: &str| {
        Row::new(name, "a client that has all is told so, with the size", "RFC 9110 §15.5.17")
            .get(blob(layer))
            .range(header)
            .status(&[416])
            .says("content-range", format!("bytes */{size}"))
            .differs(why_differs)
    };
    vec![
        beyond("range_beyond_the_end", "bytes=300000000-"),
        beyond("range_at_the_end", &format!("bytes={size}-")),
        Row::new("range_of_empty", "nothing has no first byte", RFC_RANGE)
            .get(blob(&content.empty))
            .range("bytes=0-0")
            .status(&[200, 416])
            .differs("registries differ about it"),
    ]
}

fn conditional(content: &Content) -> Vec<Row> {
    let layer = &content.image.layers[1];
    let tag = format!("\"{}\"", layer.digest());
    let row = |name, why, tag: &str| {
        Row::new(name, why, "RFC 9110 §13.1.5").get(blob(layer)).range("bytes=10-19").header(IF_RANGE, tag)
    };
    vec![
        row("if_range_right", "the tag is the digest, so the part is good", &tag).part(layer, 10, 19),
        row("if_range_wrong", "the part of another blob would be joined to it", "\"other\"")
            .whole(layer)
            .differs("s3s-fs, where the registry sends its callers to, pays no heed to If-Range"),
    ]
}

fn left_early(content: &Content) -> Row {
    let layer = &content.image.layers[0];
    Row::new("range_chunks_left_early", "containerd 2.1 reads its chunk and hangs up", MAIN)
        .get(blob(layer))
        .act(Act::Chunks(layer.content().len()))
        .status(&[206])
        .body(layer.content())
        .expect(Expect::NoHeader("content-encoding"))
}
