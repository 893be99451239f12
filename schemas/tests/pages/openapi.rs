//! The page of the HTTP API: operations by tag, then the values that they share.

use serde_json::Value;

use crate::shape::Shape;
use crate::{cell, head, sorted, table, text};

pub(crate) fn page(document: &Value) -> String {
    let read_on = "With examples, for those who write an application: [HTTP API](http-api.md).";
    let mut page = head(
        "OpenAPI: what is asked over HTTP",
        "openapi",
        document,
        read_on,
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        let title = text(&tag["description"]).trim_end_matches('.');
        page += &format!("\n## {title}\n");
        for (path, item) in sorted(&document["paths"]) {
            for (method, operation) in sorted(item) {
                if operation["tags"][0] == tag["name"] {
                    let title = format!("{} {path}", method.to_uppercase());
                    page += &self::operation(&title, operation, document);
                }
            }
        }
    }
    page += "\n## Values\n";
    for (name, schema) in sorted(&document["components"]["schemas"]) {
        let shape = Shape::new(schema, document);
        let members = shape.members();
        let about = cell(&schema["description"]);
        let kind = if members.is_empty() {
            format!("\n{}.\n", shape.kind())
        } else {
            members
        };
        let about = if about.is_empty() {
            about
        } else {
            format!("\n{about}\n")
        };
        page += &format!("\n### {name}\n{about}{kind}");
    }
    page
}

fn operation(title: &str, operation: &Value, document: &Value) -> String {
    let mut section = format!("\n### `{title}`\n\n{}.", text(&operation["summary"]));
    section += &match text(&operation["description"]) {
        "" => "\n".to_owned(),
        about => format!(" {about}"),
    };
    section += &format!("\nNeeds {}.\n", security(&operation["security"], document));
    let mut asked = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let parameter = shared(parameter, document);
        let optional = if parameter["required"] == true {
            ""
        } else {
            ", optional"
        };
        asked.push(vec![
            format!("`{}`", text(&parameter["name"])),
            cell(&parameter["in"]),
            format!(
                "{}{optional}",
                Shape::new(&parameter["schema"], document).kind()
            ),
            cell(&parameter["description"]),
        ]);
    }
    section += &table(&["parameter", "in", "type", ""], &asked);
    for (kind, content) in sorted(&operation["requestBody"]["content"]) {
        section += &format!("\nThe body is `{kind}`{}\n", value(content, document));
        if content["schema"]["$ref"]
            .as_str()
            .is_some_and(|file| file.starts_with("json/"))
        {
            section += &Shape::new(&content["schema"], document).members();
        }
    }
    let mut answers = Vec::new();
    for (status, answer) in sorted(&operation["responses"]) {
        let answer = shared(answer, document);
        answers.push(vec![
            status.to_owned(),
            body(answer, document),
            headers(answer, cell(&answer["description"])),
        ]);
    }
    section + &table(&["status", "body", ""], &answers)
}

/// What is sent, or which codes a problem has.
fn body(answer: &Value, document: &Value) -> String {
    let kinds = sorted(&answer["content"])
        .into_iter()
        .map(|(kind, content)| {
            let codes = content["schema"]["properties"]["code"]["enum"].as_array();
            let Some(codes) = codes else {
                return format!("`{kind}`{}", value(content, document));
            };
            let codes: Vec<_> = codes
                .iter()
                .map(|code| format!("`{}`", text(code)))
                .collect();
            format!("[problem](#problem): {}", codes.join(", "))
        });
    kinds.collect::<Vec<_>>().join(" or ")
}

fn value(content: &Value, document: &Value) -> String {
    let schema = &content["schema"];
    let Some(reference) = schema["$ref"].as_str() else {
        return if schema.is_null() {
            String::new()
        } else {
            format!(": {}", Shape::new(schema, document).kind())
        };
    };
    match reference.strip_prefix("#/components/schemas/") {
        Some(name) => format!(": [{name}](#{})", name.to_lowercase()),
        None => format!(": [{reference}](../schemas/{reference})"),
    }
}

fn headers(answer: &Value, about: String) -> String {
    sorted(&answer["headers"])
        .into_iter()
        .fold(about, |about, (name, _)| format!("{about} With `{name}`."))
}

/// One of these is enough; none is needed if there are none.
fn security(schemes: &Value, document: &Value) -> String {
    let schemes = schemes.as_array().into_iter().flatten().flat_map(sorted);
    let names: Vec<_> = schemes
        .map(|(name, _)| {
            let scheme = &document["components"]["securitySchemes"][name];
            let place = match text(&scheme["type"]) {
                "http" => "`Authorization: Bearer …`".to_owned(),
                _ => format!("`{}` in the {}", text(&scheme["name"]), text(&scheme["in"])),
            };
            match cell(&scheme["description"]) {
                about if about.is_empty() => place,
                about => format!("{place} ({})", about.trim_end_matches('.')),
            }
        })
        .collect();
    if names.is_empty() {
        "no credentials".into()
    } else {
        names.join(", or ")
    }
}

/// What stands in `components`, if it is a reference.
fn shared<'a>(value: &'a Value, document: &'a Value) -> &'a Value {
    let reference = value["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix('#'));
    reference.map_or(value, |pointer| document.pointer(pointer).expect(pointer))
}
