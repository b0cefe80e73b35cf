"""Write a bill of materials (CycloneDX 1.5) of what the packages need, and have pip-audit look it up.

    uv run python .ci/supply_chain.py --output DIR [--no-audit]

Exit status: 0 where every package was looked up and none has a known weakness; 1 where one has, or where some could not
be looked up (no database of advisories can be reached), which is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_EXPORT = ["uv", "export", "--quiet", "--all-packages", "--no-dev", "--all-extras", "--no-emit-workspace"]


def main() -> int:
    """Both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory of sbom.json and audit.json")
    parser.add_argument("--no-audit", action="store_true", help="the bill of materials alone")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    bill, wanted = options.output / "sbom.json", options.output / "requirements.txt"
    subprocess.run([*_EXPORT, "--format", "cyclonedx1.5", "--output-file", bill], cwd=ROOT, check=True)
    print(f"{bill}: {len(json.loads(bill.read_bytes())['components'])} components")
    if options.no_audit:
        return 0
    subprocess.run([*_EXPORT, "--no-hashes", "--output-file", wanted], cwd=ROOT, check=True)
    found = subprocess.run(
        ["uv", "tool", "run", "pip-audit", "--requirement", wanted, "--disable-pip", "--no-deps", "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return _told(found, options.output / "audit.json")


def _told(found: subprocess.CompletedProcess[str], report: Path) -> int:
    try:
        packages = json.loads(found.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(
            f"not audited: {(found.stderr.strip().splitlines() or ['pip-audit gave no report'])[-1]}", file=sys.stderr
        )
        return 1
    report.write_text(json.dumps(packages, indent=2))
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    weak = [f"{one['name']} {one['version']}: {each['id']}" for one in packages for each in one.get("vulns", ())]
    print(f"{len(packages) - len(skipped)} of {len(packages)} packages audited, {len(weak)} known weaknesses")
    print("\n".join(weak))
    if skipped:
        print(f"not audited, since they could not be looked up: {', '.join(skipped[:5])} ...", file=sys.stderr)
    return 1 if weak or skipped or not packages else 0


if __name__ == "__main__":
    sys.exit(main())
