//! The OpenAPI 3.1 document of the registry: written by hand, for people; checked against the
//! routes and codes here, and live by the end-to-end tests.

pub const DOCUMENT: &str = include_str!("../openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ringback_protocol::Code;
    use serde_json::Value;

    use super::*;
    use crate::routes::ROUTES;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("openapi.json is JSON")
    }

    fn operations(document: &Value) -> impl Iterator<Item = (String, &str, &Value)> {
        document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item
                    .as_object()
                    .unwrap()
                    .iter()
                    .filter(|(key, _)| *key != "parameters");
                methods.map(move |(method, operation)| {
                    (method.to_uppercase(), path.as_str(), operation)
                })
            })
    }

    #[test]
    fn it_describes_exactly_the_routes() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let described: BTreeSet<_> = operations(&document)
            .map(|(method, path, _)| (method, path.to_owned()))
            .collect();
        let routed: BTreeSet<_> = ROUTES
            .iter()
            .map(|route| (route.method.to_owned(), route.path.to_owned()))
            .collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn owner_routes_ask_for_the_secret() {
        let document = document();
        for (method, path, operation) in operations(&document) {
            let route = ROUTES
                .iter()
                .find(|route| route.method == method && route.path == path)
                .unwrap();
            let asks = operation
                .get("security")
                .is_some_and(|security| security[0].get("owner").is_some());
            assert_eq!(asks, route.owner, "{method} {path}");
            let statuses = operation["responses"].as_object().unwrap();
            assert_eq!(statuses.contains_key("401"), route.owner, "{method} {path}");
            assert!(
                statuses.contains_key("default"),
                "{method} {path} has no problem response"
            );
        }
    }

    #[test]
    fn it_lists_the_codes_that_travel_by_http() {
        let document = document();
        let listed: BTreeSet<_> =
            document["components"]["schemas"]["Problem"]["properties"]["code"]["examples"]
                .as_array()
                .unwrap()
                .iter()
                .map(|code| code.as_str().unwrap())
                .collect();
        let codes: BTreeSet<_> = Code::ALL
            .iter()
            .filter(|code| code.http_status() != 0)
            .map(Code::as_str)
            .collect();
        assert_eq!(listed, codes);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(reference)) = object.get("$ref") {
                        let pointer = reference
                            .strip_prefix('#')
                            .expect("references stay in the document");
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    object.values().for_each(|value| check(value, document));
                }
                Value::Array(array) => array.iter().for_each(|value| check(value, document)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
    }
}
