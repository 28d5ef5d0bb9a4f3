"""The report's style sheet: readable in light and dark, on a phone, and on paper."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5c6670;--line:#dde2e7;--page:#fff;--card:#f5f7f9;
--s0:#8fa3b5;--s1:#0b6fb8;--s2:#c2571a;--s3:#2f8f5b}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaee;--soft:#9aa6b2;--line:#343c45;--page:#14181c;--card:#1d2329;
--s0:#61788c;--s1:#5db2f0;--s2:#f0a05d;--s3:#6fce9a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:28px;margin:0 0 10px;overflow-wrap:anywhere}
h2{font-size:20px;margin:40px 0 12px;padding-bottom:6px;border-bottom:1px solid var(--line)}
h3{font-size:15px;margin:22px 0 8px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0}
dt,footer,figcaption,.heads,.card span,p{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.cards{display:flex;flex-wrap:wrap;gap:10px;margin-top:20px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:118px}
.card b{display:block;font-size:20px;font-variant-numeric:tabular-nums}
.card span{font-size:13px}
.heads{display:grid;grid-template-columns:repeat(4,1fr);font-size:13px;text-align:center}
figure{margin:0 0 14px}
figure img,video{display:block;width:100%;height:auto;border-radius:4px}
video{max-width:640px}
figcaption{font-size:13px;margin-top:3px;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px}
.chart{width:100%;height:auto;overflow:visible}
.chart .title{font-size:13px;font-weight:600;fill:var(--ink)}
.chart .axis{font-size:11px;fill:var(--soft)}
.chart .mid,.chart .empty{text-anchor:middle}
.chart .empty{font-size:13px;fill:var(--soft)}
.chart .end{text-anchor:end}
.chart .grid{stroke:var(--line);stroke-width:1}
.chart polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}
.chart polyline.s0{stroke:var(--s0)}.chart polyline.s1{stroke:var(--s1)}
.chart polyline.s2{stroke:var(--s2)}.chart polyline.s3{stroke:var(--s3)}
.chart circle.s0{fill:var(--s0)}.chart circle.s1{fill:var(--s1)}
.chart circle.s2{fill:var(--s2)}.chart circle.s3{fill:var(--s3)}
table{border-collapse:collapse;font-size:14px;width:100%}
th,td{border-bottom:1px solid var(--line);padding:4px 12px 4px 0;text-align:left;vertical-align:top}
th{font-weight:500}
.numbers td{font-variant-numeric:tabular-nums}
.settings th{width:40%;color:var(--soft);overflow-wrap:anywhere}
.settings td{overflow-wrap:anywhere}
details{margin-top:10px}summary{cursor:pointer}
footer{margin-top:48px;font-size:13px}
@media print{details>*{display:block}}
"""
