//! Each field of the schema with its path, and what its description says of unit, default and bounds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// A field, such as `spec.tenants[].limits.burst`.
pub(crate) struct Field {
    pub(crate) path: String,
    pub(crate) schema: JSONSchemaProps,
    pub(crate) required: bool,
}

/// Every field below the schema, in order of their names, each before what is in it.
pub(crate) fn below(path: &str, schema: &JSONSchemaProps) -> Vec<Field> {
    let mut fields = Vec::new();
    for (name, property) in schema.properties.iter().flatten() {
        let required = schema.required.iter().flatten().any(|required| required == name);
        let path = format!("{path}.{name}");
        fields.push(Field { path: path.clone(), schema: property.clone(), required });
        fields.extend(below(&path, property));
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &property.items {
            fields.extend(below(&format!("{path}[]"), items));
        }
    }
    fields
}

/// What the numbers of the spec count: each of their descriptions begins with one of these.
const COUNTED: [(&str, &str); 11] = [
    ("Pods, or percent", "pods or percent"),
    ("Pods", "pods"),
    ("Percent", "percent"),
    ("Records", "records"),
    ("Requests", "requests"),
    ("PUT requests", "PUT requests"),
    ("Streams", "streams"),
    ("Days", "days"),
    ("Seconds", "seconds"),
    ("Batches", "batches"),
    ("Rows", "rows"),
];

impl Field {
    fn text(&self) -> String {
        self.schema.description.clone().unwrap_or_default().replace('\n', " ")
    }

    /// Without the sentence about the default, and without the bounds.
    pub(crate) fn meaning(&self) -> String {
        let text = self.text();
        let meaning = text.split("Default: ").next().unwrap_or_default().trim();
        match self.said_bounds() {
            Some((least, most)) => meaning.replace(&format!(", `{least}` to `{most}`"), ""),
            None => meaning.to_owned(),
        }
    }

    /// What follows `Default: `.
    pub(crate) fn default(&self) -> Option<String> {
        let text = self.text();
        text.split_once("Default: ").map(|(_, default)| default.trim().trim_end_matches('.').to_owned())
    }

    /// Has fields of its own.
    pub(crate) fn is_group(&self) -> bool {
        self.schema.properties.is_some()
    }

    pub(crate) fn is_size(&self) -> bool {
        let pattern = self.schema.pattern.as_deref();
        self.schema.x_kubernetes_int_or_string == Some(true) && pattern.is_some_and(|p| p.contains("{1,16}"))
    }

    pub(crate) fn is_duration(&self) -> bool {
        self.schema.pattern.as_deref().is_some_and(|pattern| pattern.contains("(ms|s|m|h|d)"))
    }

    pub(crate) fn type_(&self) -> String {
        let schema = &self.schema;
        if let Some(values) = &schema.enum_ {
            let values: Vec<_> =
                values.iter().map(|value| format!("`{}`", value.0.as_str().unwrap())).collect();
            return values.join(", ");
        }
        let items = |schema: &JSONSchemaProps| match &schema.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => items.type_.clone().unwrap_or_default(),
            _ => String::new(),
        };
        match schema.type_.as_deref() {
            None if self.is_size() => "size".into(),
            None => "integer or string".into(),
            Some("string") if self.is_duration() => "duration".into(),
            Some("array") => format!("list of {}s", items(schema)),
            Some("object") if schema.additional_properties.is_some() => "map".into(),
            Some(other) => other.into(),
        }
    }

    /// What a number counts.
    pub(crate) fn unit(&self) -> Option<String> {
        if self.is_size() {
            return Some("bytes".into());
        }
        let is_number = self.schema.type_.as_deref() == Some("integer");
        let is_either = self.schema.x_kubernetes_int_or_string == Some(true);
        let text = self.text();
        let (_, unit) = COUNTED.into_iter().find(|(beginning, _)| text.starts_with(beginning))?;
        (is_number || is_either).then(|| unit.to_owned())
    }

    /// Least and most of a size or duration, as its description says: `` `1Ki` to `256Mi` ``.
    pub(crate) fn said_bounds(&self) -> Option<(String, String)> {
        let text = self.text();
        let (before, after) = text.split_once("` to `")?;
        let (least, most) = (before.rsplit('`').next()?, after.split('`').next()?);
        Some((least.to_owned(), most.to_owned()))
    }

    pub(crate) fn bounds(&self) -> String {
        let schema = &self.schema;
        let range = |least: Option<String>, most: Option<String>, of: &str| match (least, most) {
            (Some(least), Some(most)) => Some(format!("{least} to {most}{of}")),
            (None, Some(most)) => Some(format!("at most {most}{of}")),
            _ => None,
        };
        if self.is_size() || self.is_duration() {
            return self.said_bounds().map(|(least, most)| format!("{least} to {most}")).unwrap_or_default();
        }
        let entries = match &schema.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(_)) => schema.max_properties,
            _ => None,
        };
        let number = |value: i64| value.to_string();
        let length = schema.max_length.filter(|_| schema.x_kubernetes_int_or_string.is_none());
        [
            range(
                schema.minimum.map(|least| least.to_string()),
                schema.maximum.map(|most| most.to_string()),
                "",
            ),
            range(schema.min_length.map(number), length.map(number), " characters"),
            range(schema.min_items.map(number), schema.max_items.map(number), " items"),
            range(None, entries.map(number), " entries"),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
    }
}
