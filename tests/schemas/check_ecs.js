// Checks documents, one a line, against @elastic/ecs: every field is known and of its type, and words are allowed.
// Usage: node check_ecs.js FILE (with NODE_PATH where the package is)
const { EcsFlat, EcsVersion } = require('@elastic/ecs');
const fs = require('fs');

const lines = fs.readFileSync(process.argv[2], 'utf8').trim().split('\n');
const isNumber = (value) => Number.isSafeInteger(value);
const isText = (value) => typeof value === 'string';
const types = {
  date: (value) => isText(value) && !Number.isNaN(Date.parse(value)),
  long: isNumber,
  keyword: isText,
  constant_keyword: isText,
  match_only_text: isText,
  wildcard: isText,
  boolean: (value) => typeof value === 'boolean',
};

function check(path, value, complain) {
  if (path === 'vigie' || path.startsWith('vigie.')) return;
  const field = EcsFlat[path];
  if (field === undefined) {
    if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
      for (const [key, inner] of Object.entries(value)) check(path ? `${path}.${key}` : key, inner, complain);
    } else {
      complain(`${path} is no field`);
    }
    return;
  }
  const isList = Array.isArray(value);
  if (isList !== (field.normalize || []).includes('array')) complain(`${path} is${isList ? '' : ' not'} a list`);
  for (const one of isList ? value : [value]) {
    const right = types[field.type];
    if (right === undefined) complain(`${path} has the type ${field.type}, which this checker does not know`);
    else if (!right(one)) complain(`${path}: ${JSON.stringify(one)} is no ${field.type}`);
    if (field.allowed_values && !field.allowed_values.some((allowed) => allowed.name === one)) {
      complain(`${path}: ${JSON.stringify(one)} is not allowed`);
    }
  }
}

let bad = 0;
for (const line of lines) {
  const document = JSON.parse(line);
  const complaints = [];
  check('', document, (text) => complaints.push(text));
  const { category, type } = document.event;
  const expected = category.flatMap(
    (name) => EcsFlat['event.category'].allowed_values.find((allowed) => allowed.name === name).expected_event_types);
  if (!type.every((one) => expected.includes(one))) complaints.push(`event.type ${type} does not go with ${category}`);
  if (!document['@timestamp'] || document.ecs.version !== EcsVersion) complaints.push('no time, or another version');
  if (complaints.length > 0) {
    bad += 1;
    if (bad <= 10) console.log(complaints.slice(0, 5).join('; '));
  }
}
console.log(`${lines.length} documents checked with @elastic/ecs ${EcsVersion}, ${bad} bad`);
process.exit(bad > 0 || lines.length < 200 ? 1 : 0);
