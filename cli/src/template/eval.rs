//! A tree filled from a document.

use std::collections::HashMap;

use serde_json::Value;

use super::absent;
use super::functions;
use super::labels;
use super::parse::{Node, Operand, Parsed, Pipeline};

/// How deep templates may use each other.
const MAX_DEPTH: usize = 100;
/// Most that templates which use others write, in bytes: they could double it at each step.
const MAX_BYTES: usize = 64 << 20;

/// Fills a template.
pub(super) fn run(template: &Parsed, document: &Value) -> Result<String, String> {
    let mut state = State {
        out: String::new(),
        defined: &template.defined,
        depth: 0,
        // `$` is the document.
        variables: vec![(String::new(), document.clone())],
    };
    state.list(&template.nodes, document)?;
    Ok(state.out)
}

/// How a list of nodes ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct State<'a> {
    out: String,
    defined: &'a HashMap<String, Vec<Node>>,
    /// Templates that are being filled in others.
    depth: usize,
    variables: Vec<(String, Value)>,
}

impl State<'_> {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// As [`Self::list`], and what it declares is forgotten.
    fn block(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        let before = self.variables.len();
        let flow = self.list(nodes, dot);
        self.variables.truncate(before);
        flow
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                match pipeline.variables.is_empty() {
                    true => self.out.push_str(&printed(pipeline, &value)),
                    false => self.keep(pipeline, value)?,
                }
            }
            Node::If(pipeline, then, otherwise) => {
                let before = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let holds = functions::is_true(&value);
                if !pipeline.variables.is_empty() {
                    self.keep(pipeline, value)?;
                }
                let flow = self.block(if holds { then } else { otherwise }, dot);
                self.variables.truncate(before);
                return flow;
            }
            Node::With(pipeline, then, otherwise) => {
                let before = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                if !pipeline.variables.is_empty() {
                    self.keep(pipeline, value.clone())?;
                }
                let flow = match functions::is_true(&value) {
                    true => self.block(then, &value),
                    false => self.block(otherwise, dot),
                };
                self.variables.truncate(before);
                return flow;
            }
            Node::Range(pipeline, body, otherwise) => {
                return self.range(pipeline, body, otherwise, dot)
            }
            Node::Template(name, pipeline) => {
                let value = match pipeline {
                    Some(pipeline) => self.pipeline(pipeline, dot)?,
                    None => Value::Null,
                };
                self.template(name, value)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    /// A defined template, which sees no variable but `$`: its value.
    fn template(&mut self, name: &str, value: Value) -> Result<(), String> {
        let defined = self.defined;
        let nodes = defined
            .get(name)
            .ok_or_else(|| format!("there is no template {name:?}"))?;
        if self.depth == MAX_DEPTH || MAX_BYTES < self.out.len() {
            return Err(format!("template {name:?} goes too deep"));
        }
        let own = vec![(String::new(), value.clone())];
        let outer = std::mem::replace(&mut self.variables, own);
        self.depth += 1;
        let filled = self.list(nodes, &value);
        self.depth -= 1;
        self.variables = outer;
        filled.map(drop)
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, String> {
        let items: Vec<(Value, Value)> = match self.pipeline(pipeline, dot)? {
            Value::Array(items) => (0..).map(Value::from).zip(items).collect(),
            Value::Object(map) => {
                let mut items: Vec<_> = map.into_iter().collect();
                items.sort_by(|(one, _), (other, _)| one.cmp(other));
                let items = items.into_iter();
                items.map(|(key, value)| (key.into(), value)).collect()
            }
            Value::Null => Vec::new(),
            other => return Err(format!("range can't go over {}", functions::plain(&other))),
        };
        if items.is_empty() {
            return self.block(otherwise, dot);
        }
        let before = self.variables.len();
        for (key, value) in items {
            match pipeline.variables.as_slice() {
                [] => {}
                [one] => self.variables.push((one.clone(), value.clone())),
                [one, other, ..] => {
                    self.variables.push((one.clone(), key));
                    self.variables.push((other.clone(), value.clone()));
                }
            }
            let flow = self.block(body, &value);
            self.variables.truncate(before);
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    /// Keeps a value in the pipeline's variable.
    fn keep(&mut self, pipeline: &Pipeline, value: Value) -> Result<(), String> {
        let Some(name) = pipeline.variables.last() else {
            return Ok(());
        };
        if pipeline.declares {
            self.variables.push((name.clone(), value));
            return Ok(());
        }
        let mut known = self.variables.iter_mut().rev();
        let slot = known.find(|(known, _)| known == name);
        slot.ok_or_else(|| format!("there is no variable ${name}"))?
            .1 = value;
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn command(
        &self,
        command: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        let Some((first, arguments)) = command.split_first() else {
            return Err("an action is empty".into());
        };
        let Operand::Function(name) = first else {
            return match (arguments, last) {
                ([], None) => self.operand(first, dot),
                ([name], None) => self.label(first, self.operand(name, dot)?, dot),
                ([], Some(name)) => self.label(first, name, dot),
                _ => Err("only a function has arguments".into()),
            };
        };
        if matches!(name.as_str(), "and" | "or") {
            return self.first_that_decides(name == "or", arguments, last, dot);
        }
        let values = arguments.iter().map(|argument| self.operand(argument, dot));
        let mut values = values.collect::<Result<Vec<_>, _>>()?;
        values.extend(last);
        functions::call(name, &values)
    }

    /// `and` and `or` look at no more arguments than they need.
    fn first_that_decides(
        &self,
        decides: bool,
        arguments: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        let mut value = None;
        for argument in arguments {
            let next = self.operand(argument, dot)?;
            if functions::is_true(&next) == decides {
                return Ok(next);
            }
            value = Some(next);
        }
        let name = if decides { "or" } else { "and" };
        last.or(value)
            .ok_or_else(|| format!("wrong number or kind of arguments for {name}"))
    }

    /// `.Label "NAME"` of a row: the one thing with an argument that is no function.
    fn label(&self, operand: &Operand, name: Value, dot: &Value) -> Result<Value, String> {
        let of = match operand {
            Operand::Fields(fields) if fields == &["Label"] => Some(dot.clone()),
            Operand::Variable(variable, fields) if fields == &["Label"] => {
                Some(self.operand(&Operand::Variable(variable.clone(), Vec::new()), dot)?)
            }
            _ => None,
        };
        let found = of
            .zip(name.as_str())
            .and_then(|(row, name)| labels::find(&row, name));
        found
            .map(Value::from)
            .ok_or_else(|| "only a function has arguments".into())
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Fields(fields) => field_of(dot, fields),
            Operand::Variable(name, fields) => {
                let mut known = self.variables.iter().rev();
                let known = known.find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| format!("there is no variable ${name}"))?;
                field_of(value, fields)
            }
            Operand::Function(name) => functions::call(name, &[]),
            Operand::Constant(value) => Ok(value.clone()),
            Operand::Pipeline(pipeline, fields) => field_of(&self.pipeline(pipeline, dot)?, fields),
        }
    }
}

/// As an action prints it. Of nothing Go prints the kind of nothing that it is.
fn printed(pipeline: &Pipeline, value: &Value) -> String {
    let operand = match pipeline.commands.as_slice() {
        [command] => command.first(),
        _ => None,
    };
    let fields = match operand {
        Some(
            Operand::Fields(fields) | Operand::Variable(_, fields) | Operand::Pipeline(_, fields),
        ) => fields.as_slice(),
        _ => &[],
    };
    match (value, fields) {
        (Value::Null, [.., map, _]) if absent::is_map(map) => functions::NO_VALUE.to_owned(),
        (Value::Null, [.., name]) => absent::nothing(name).to_owned(),
        (Value::Null, []) => functions::NO_VALUE.to_owned(),
        _ => functions::plain(value),
    }
}

fn field_of(value: &Value, fields: &[String]) -> Result<Value, String> {
    let mut value = std::borrow::Cow::Borrowed(value);
    let mut of_map = false;
    for field in fields {
        let unknown = || format!("there is no field {field:?} (in .{})", fields.join("."));
        let found = value
            .get(field)
            .or_else(|| in_docker_spelling(&value, field));
        let found = match found {
            Some(found) => found.clone(),
            // In a map of the user's nothing is unknown.
            None if of_map && (value.is_object() || value.is_null()) => Value::Null,
            None => absent::member(&value, field).ok_or_else(unknown)?,
        };
        of_map = absent::is_map(field);
        value = std::borrow::Cow::Owned(found);
    }
    Ok(value.into_owned())
}

/// The fields of docker's own types are spelt `ID` and `APIVersion` where the API has `Id` and
/// `ApiVersion`; docker takes both. What a user has named has one spelling.
fn in_docker_spelling<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    let is_types = |name: &str| name.starts_with(|c: char| c.is_ascii_uppercase());
    let mut members = value.as_object().into_iter().flatten();
    let found = members.find(|(name, _)| is_types(name) && name.eq_ignore_ascii_case(field));
    found.filter(|_| is_types(field)).map(|(_, value)| value)
}
