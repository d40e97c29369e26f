//! The right to open a console. nova: objects/console_auth_token.py

use uuid::Uuid;

use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::versioned_object;

versioned_object! {
    /// A token for one console of one instance.
    ConsoleAuthToken "1.3" {
        id: i64,
        /// `novnc`, `serial`, `spice-html5`, …
        console_type: String,
        host: String,
        port: i64,
        tls_port: Option<i64>,
        internal_access_path: Option<String>,
        instance_uuid: Uuid,
        /// The proxy's URL, to which the token is added.
        access_url_base: Option<String>,
        token: Secret,
        /// Seconds since 1970.
        expires: i64,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
    }
}
