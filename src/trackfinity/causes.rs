//! The causes of reqwest's errors: only their texts tell some of them apart.

use std::{error::Error as _, iter};

/// An error and its causes in one line, without the URL.
pub(super) fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    iter::once(error.to_string()).chain(cause_texts(&error)).collect::<Vec<_>>().join(": ")
}

/// The text of each cause, without the error's own.
pub(super) fn cause_texts(error: &reqwest::Error) -> impl Iterator<Item = String> {
    iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string)
}
