-- The arena's baseline: GET, POST with a length, POST in chunks, in turn. After `--`, the profile's name: `limited-conn` has
-- every tenth request close its connection.
local forms = {
  "GET /baseline11?a=13&b=42 HTTP/1.1\r\nHost: localhost\r\n%s\r\n",
  "POST /baseline11?a=13&b=42 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n%s\r\n20",
  "POST /baseline11?a=13&b=42 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n%s\r\n2\r\n20\r\n0\r\n\r\n",
}
local kept, last, number, limited = {}, {}, 0, false

function init(arguments)
  limited = arguments[1] == "limited-conn"
  for index, form in ipairs(forms) do
    kept[index] = form:format("")
    last[index] = form:format("Connection: close\r\n")
  end
end

function request()
  number = number + 1
  local form = number % #forms + 1
  return limited and number % 10 == 0 and last[form] or kept[form]
end
