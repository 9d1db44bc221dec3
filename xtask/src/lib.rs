//! What the commands and the tests share.
