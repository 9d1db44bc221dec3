//! Error codes (§13): the one list that registry, device and caller share.

use std::fmt;

macro_rules! codes {
    ($($variant:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, in a word that programs can match on (§13).
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $title] $variant,)*
            /// A code of a later version: kept as it came, of what can be printed at most 64
            /// characters.
            Unknown(String),
        }

        impl Code {
            /// Every code of this version.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown(text) => text,
                }
            }

            /// The HTTP status that carries this code; 0 if it never travels by HTTP.
            pub fn http_status(&self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                    Self::Unknown(_) => 0,
                }
            }

            /// A short sentence without a full stop.
            pub fn title(&self) -> &str {
                match self {
                    $(Self::$variant => $title,)*
                    Self::Unknown(text) => text,
                }
            }
        }

        impl From<&str> for Code {
            fn from(text: &str) -> Self {
                let text: String = text.chars().filter(char::is_ascii_graphic).take(64).collect();
                match text.as_str() {
                    $($text => Self::$variant,)*
                    _ => Self::Unknown(text),
                }
            }
        }
    };
}

codes! {
    BadRequest = "bad_request", 400, "the request is not what the API takes";
    BadFrame = "bad_frame", 400, "a frame does not parse or is out of place";
    BadEnvelope = "bad_envelope", 400, "not an envelope for this device";
    BadVersion = "bad_version", 400, "this protocol version is not spoken here";
    TooLarge = "too_large", 413, "over the size limit";
    Unauthorized = "unauthorized", 401, "the owner secret is missing or wrong";
    OwnerSecretUnset = "owner_secret_unset", 503, "this registry has no owner secret yet";
    OwnerSecretWeak = "owner_secret_weak", 503, "this registry's owner secret can be guessed";
    BadCode = "bad_code", 403, "the enrolment code is unknown, used or expired";
    BadSignature = "bad_signature", 403, "the signature is wrong";
    NotEnrolled = "not_enrolled", 403, "this device is not enrolled here";
    Revoked = "revoked", 403, "the owner has revoked this device";
    NameTaken = "name_taken", 409, "this name belongs to another device";
    UnknownDevice = "unknown_device", 404, "no such device";
    UnknownAlias = "unknown_alias", 404, "no device of this name";
    NotFound = "not_found", 404, "no such route";
    MethodNotAllowed = "method_not_allowed", 405, "this route does not take this method";
    DeviceOffline = "device_offline", 409, "the device is not connected";
    NoAnswer = "no_answer", 504, "the device did not answer in time";
    RateLimited = "rate_limited", 429, "too many attempts";
    KeyInUse = "key_in_use", 0, "another agent registers with this device's key";
    RelayDisabled = "relay_disabled", 0, "the owner of this registry has switched its relay off";
    RelayExhausted = "relay_exhausted", 0, "the relay's allowance for today is used up";
    WrongPassword = "wrong_password", 0, "wrong password";
    UnknownCaller = "unknown_caller", 0, "the device does not know this caller's key";
    Stale = "stale", 403, "the request is expired, from the future, or from before the agent's start";
    Replayed = "replayed", 0, "this request was seen before";
    UnknownService = "unknown_service", 0, "the device exposes no service of this name";
    BadMode = "bad_mode", 0, "the service is not used this way";
    ServiceUnreachable = "service_unreachable", 0, "the service does not answer on the device's network";
    TooMany = "too_many", 0, "too many are open at a time";
    Internal = "internal", 500, "an internal fault";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*<std::borrow::Cow<'de, str>>::deserialize(
            deserializer,
        )?))
    }
}

impl<C> minicbor::Encode<C> for Code {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(self.as_str())?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Code {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Self::from(d.str()?))
    }
}
