//! `[service_user]`: who vouches for a user's token.

use crate::config::keystoneauth::{Auth, Http};
use crate::config::opt::{Opt, section};

section! {
    /// Who vouches for a user's token, so that it is taken even when it has expired since the
    /// user sent it.
    ServiceUser in "service_user":

    /// Whether to send a service token beside a user's.
    send_service_user_token: bool = Opt::boolean().default("false");

    group auth: Auth = Auth::options("service_user");
    group http: Http = Http::options("service_user");
}
