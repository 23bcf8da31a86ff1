//! How the program logs in to RabbitMQ without a password: by a token that is renewed, and by a client certificate.

mod certificate;
mod folder;
mod renewal;
mod token;
