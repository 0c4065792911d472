//! Pieces as a tree.

use std::collections::{HashMap, VecDeque};

use super::lex::{pieces, Piece, Token};

/// How deep actions, and parentheses in them, may stand in each other.
const MAX_DEPTH: usize = 100;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// Its value is printed, unless it is kept in a variable.
    Print(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    /// A template of this name, filled from a value.
    Template(String, Option<Pipeline>),
    Break,
    Continue,
}

/// Commands, each with the value of the one before it as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that get the value; in a range two may be the key and the value.
    pub(super) variables: Vec<String>,
    /// They are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A part of a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Fields(Vec<String>),
    Variable(String, Vec<String>),
    Function(String),
    Constant(serde_json::Value),
    /// In parentheses, and fields of it.
    Pipeline(Box<Pipeline>, Vec<String>),
}

/// A template, and those that it defines, by their names.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) nodes: Vec<Node>,
    pub(super) defined: HashMap<String, Vec<Node>>,
}

/// Reads a template.
pub(super) fn parse(template: &str) -> Result<Parsed, String> {
    let mut parser = Parser {
        pieces: pieces(template)?.into(),
        defined: HashMap::new(),
    };
    let (nodes, end) = parser.list(0)?;
    let defined = parser.defined;
    match end {
        None => Ok(Parsed { nodes, defined }),
        Some(end) => Err(format!("unexpected {{{{{}}}}}", end.word())),
    }
}

/// What ends a list of nodes.
enum End {
    End,
    Else(Vec<Token>),
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Else(_) => "else",
        }
    }
}

struct Parser {
    pieces: VecDeque<Piece>,
    defined: HashMap<String, Vec<Node>>,
}

impl Parser {
    fn list(&mut self, depth: usize) -> Result<(Vec<Node>, Option<End>), String> {
        if MAX_DEPTH < depth {
            return Err("actions stand too deep in each other".into());
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.pop_front() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            match word {
                "end" => return Ok((nodes, Some(End::End))),
                "else" => return Ok((nodes, Some(End::Else(tokens[1..].to_vec())))),
                "define" if depth == 0 => self.define(&tokens[1..])?,
                _ => nodes.push(self.node(word, &tokens, depth)?),
            }
        }
        Ok((nodes, None))
    }

    fn node(&mut self, word: &str, tokens: &[Token], depth: usize) -> Result<Node, String> {
        match word {
            "if" => self.branch(word, &tokens[1..], depth, Node::If),
            "with" => self.branch(word, &tokens[1..], depth, Node::With),
            "range" => self.branch(word, &tokens[1..], depth, Node::Range),
            "break" => Ok(Node::Break),
            "continue" => Ok(Node::Continue),
            "template" => {
                let (name, of) = named(word, &tokens[1..])?;
                Ok(Node::Template(name, of))
            }
            "block" => self.block(&tokens[1..], depth),
            "define" => Err("unexpected {{define}} in another action".into()),
            _ => Ok(Node::Print(pipeline(tokens)?)),
        }
    }

    /// `define "NAME"`, up to its end.
    fn define(&mut self, tokens: &[Token]) -> Result<(), String> {
        match named("define", tokens)? {
            (name, None) => self.body("define", name, 1),
            _ => Err("unexpected words behind {{define".into()),
        }
    }

    /// `block "NAME" PIPELINE` defines a template and is filled where it stands.
    fn block(&mut self, tokens: &[Token], depth: usize) -> Result<Node, String> {
        let (name, of) = named("block", tokens)?;
        let of = of.ok_or("missing value for {{block}}")?;
        self.body("block", name.clone(), depth + 1)?;
        Ok(Node::Template(name, Some(of)))
    }

    fn body(&mut self, word: &str, name: String, depth: usize) -> Result<(), String> {
        match self.list(depth)? {
            (nodes, Some(End::End)) => {
                self.defined.insert(name, nodes);
                Ok(())
            }
            (_, Some(End::Else(_))) => Err("unexpected {{else}}".into()),
            (_, None) => Err(format!("{{{{{word}}}}} is not closed by {{{{end}}}}")),
        }
    }

    fn branch(
        &mut self,
        word: &str,
        tokens: &[Token],
        depth: usize,
        make: fn(Pipeline, Vec<Node>, Vec<Node>) -> Node,
    ) -> Result<Node, String> {
        let pipeline = pipeline(tokens)?;
        let not_closed = || format!("{{{{{word}}}}} is not closed by {{{{end}}}}");
        let (then, end) = self.list(depth + 1)?;
        let otherwise = match end.ok_or_else(not_closed)? {
            End::End => Vec::new(),
            End::Else(tokens) => match tokens.split_first() {
                None => match self.list(depth + 1)? {
                    (nodes, Some(End::End)) => nodes,
                    (_, Some(End::Else(_))) => return Err("unexpected {{else}}".into()),
                    (_, None) => return Err(not_closed()),
                },
                // `else if` and `else with`: a branch of its own, with the same end.
                Some((Token::Word(again), rest)) if again == "if" => {
                    vec![self.branch(again, rest, depth + 1, Node::If)?]
                }
                Some((Token::Word(again), rest)) if again == "with" => {
                    vec![self.branch(again, rest, depth + 1, Node::With)?]
                }
                Some(_) => return Err("unexpected words behind {{else".into()),
            },
        };
        Ok(make(pipeline, then, otherwise))
    }
}

/// The name of a template, and the value that it is given.
fn named(word: &str, tokens: &[Token]) -> Result<(String, Option<Pipeline>), String> {
    let Some((Token::Text(name), rest)) = tokens.split_first() else {
        return Err(format!("missing name of a template behind {{{{{word}"));
    };
    let of = match rest {
        [] => None,
        rest => Some(pipeline(rest)?),
    };
    Ok((name.clone(), of))
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, String> {
    let mut tokens: VecDeque<Token> = tokens.iter().cloned().collect();
    let (variables, declares) = variables(&mut tokens);
    let commands = commands(&mut tokens, 0)?;
    match tokens.front() {
        None => Ok(Pipeline {
            variables,
            declares,
            commands,
        }),
        Some(_) => Err("unexpected ) or assignment in an action".into()),
    }
}

/// `$a, $b :=` at the beginning.
fn variables(tokens: &mut VecDeque<Token>) -> (Vec<String>, bool) {
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(Token::Variable(name, fields)) = tokens.get(at) {
        if !fields.is_empty() || names.len() == 2 {
            break;
        }
        names.push(name.clone());
        at += 1;
        match tokens.get(at) {
            Some(Token::Comma) => at += 1,
            Some(sign @ (Token::Declare | Token::Assign)) => {
                let declares = *sign == Token::Declare;
                tokens.drain(..=at);
                return (names, declares);
            }
            _ => break,
        }
    }
    (Vec::new(), false)
}

fn commands(tokens: &mut VecDeque<Token>, depth: usize) -> Result<Vec<Vec<Operand>>, String> {
    if MAX_DEPTH < depth {
        return Err("parentheses stand too deep in each other".into());
    }
    let mut commands = vec![Vec::new()];
    while let Some(token) = tokens.front() {
        if matches!(
            token,
            Token::Close(_) | Token::Declare | Token::Assign | Token::Comma
        ) {
            break;
        }
        let token = tokens.pop_front();
        let operand = match token {
            Some(Token::Pipe) => {
                commands.push(Vec::new());
                continue;
            }
            Some(Token::Open) => {
                let inner = self::commands(tokens, depth + 1)?;
                let Some(Token::Close(fields)) = tokens.pop_front() else {
                    return Err("( is not closed by )".into());
                };
                let pipeline = Pipeline {
                    variables: Vec::new(),
                    declares: false,
                    commands: inner,
                };
                Operand::Pipeline(Box::new(pipeline), fields)
            }
            Some(token) => operand(token),
            None => break,
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
    }
    match commands.iter().any(Vec::is_empty) {
        true if commands.len() == 1 => Err("an action is empty".into()),
        true => Err("a command is missing beside |".into()),
        false => Ok(commands),
    }
}

fn operand(token: Token) -> Operand {
    match token {
        Token::Fields(fields) => Operand::Fields(fields),
        Token::Variable(name, fields) => Operand::Variable(name, fields),
        Token::Text(text) => Operand::Constant(text.into()),
        Token::Integer(number) => Operand::Constant(number.into()),
        Token::Float(number) => Operand::Constant(number.into()),
        Token::Word(word) => match word.as_str() {
            "true" => Operand::Constant(true.into()),
            "false" => Operand::Constant(false.into()),
            "nil" => Operand::Constant(serde_json::Value::Null),
            _ => Operand::Function(word),
        },
        // Handled before.
        Token::Pipe
        | Token::Open
        | Token::Close(_)
        | Token::Comma
        | Token::Declare
        | Token::Assign => Operand::Constant(serde_json::Value::Null),
    }
}
