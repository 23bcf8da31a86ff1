"""Makes pydantic types of the schemas by datamodel-code-generator, and reads examples with them.

generate.py OUT SCHEMAS EXAMPLE…: an example is read as the schema that its name begins with.
"""

import importlib
import subprocess
import sys
from pathlib import Path

out, schemas, *examples = sys.argv[1:]
folder = Path(out)
folder.mkdir(parents=True, exist_ok=True)
sys.path.insert(0, out)
types = {}
for name, root in [("request", "UnlockRequest"), ("request_strict", "StrictUnlockRequest"), ("outcome", "UnlockOutcome")]:
    module = f"{name}_types"
    subprocess.run(
        [sys.executable, "-m", "datamodel_code_generator", "--input-file-type", "jsonschema",
         "--input", f"{schemas}/{name.replace('_', '-')}.json", "--output", str(folder / f"{module}.py"),
         "--output-model-type", "pydantic_v2.BaseModel", "--disable-timestamp", "--formatters", "builtin"],
        check=True,
    )
    types[name] = getattr(importlib.import_module(module), root)
types["request_strict"](customer_id="191")
for example in examples:
    kind = "outcome" if Path(example).name.startswith("outcome") else "request"
    types[kind].model_validate_json(Path(example).read_text())
print(f"datamodel-code-generator: {len(examples)} examples read")
