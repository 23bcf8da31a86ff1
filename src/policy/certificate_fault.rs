//! Why a server's certificate is not accepted.

use std::fmt;

/// What is wrong with a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateFault {
    UnknownIssuer,
    Expired,
    NotValidYet,
    OtherName,
    /// It names no host: it has no subjectAltName.
    NoName,
    /// It is an authority's own certificate.
    Authority,
    Invalid,
}

impl CertificateFault {
    /// Reads rustls's error, of which only the text comes through; `None` if it is about something else.
    pub fn in_error(text: &str) -> Option<Self> {
        let has = |part: &str| text.contains(part);
        has("invalid peer certificate").then(|| match () {
            // The signature is wrong if another authority has the issuer's name, such as its successor.
            () if has("UnknownIssuer") || has("BadSignature") => Self::UnknownIssuer,
            () if has("xpired") => Self::Expired,
            () if has("not valid for any names") => Self::NoName,
            () if has("not valid for name") || has("NotValidForName") => Self::OtherName,
            () if has("NotValidYet") || has("not valid yet") => Self::NotValidYet,
            () if has("CaUsedAsEndEntity") => Self::Authority,
            () => Self::Invalid,
        })
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownIssuer => "its issuer is not trusted",
            Self::Expired => "it has expired",
            Self::NotValidYet => "it is not valid yet",
            Self::OtherName => "it is for another host name",
            Self::NoName => "it names no host: it has no subjectAltName, and a CN does not count",
            Self::Authority => "it is an authority's own certificate, not a server's",
            Self::Invalid => "it is not valid",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_said_without_the_library_s_names() {
        for (text, fault) in [
            ("UnknownIssuer", "its issuer is not trusted"),
            ("BadSignature", "its issuer is not trusted"),
            ("Expired", "it has expired"),
            ("certificate expired: verification time 1 (UNIX)", "it has expired"),
            ("certificate not valid for name \"h\"", "it is for another host name"),
            (
                "certificate not valid for name \"h\"; certificate is not valid for any names (according to its \
                 subjectAltName extension)",
                "it names no host: it has no subjectAltName, and a CN does not count",
            ),
            ("Other(OtherError(CaUsedAsEndEntity))", "it is an authority's own certificate, not a server's"),
            ("BadEncoding", "it is not valid"),
        ] {
            let text = format!("client error (Connect): invalid peer certificate: {text}");
            let found = CertificateFault::in_error(&text).expect("a fault");
            assert_eq!(found.to_string(), fault, "{text}");
        }
        assert_eq!(CertificateFault::in_error("received fatal alert: CertificateRequired"), None);
    }
}
