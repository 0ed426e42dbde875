<?php
// A front controller as PHP's frameworks have it: PATH_INFO, a route in the query or the form (WordPress, ThinkPHP),
// a method in a field or the form (Symfony, Laravel), a target in a field (Zend, Symfony under IIS).

function tell(string $handler, array $readings): void {
    $identity = $_SERVER['HTTP_X_VERIFIED_IDENTITY'] ?? '';
    $claims = $identity ? json_decode(base64_decode(strtr(explode('.', $identity)[1], '-_', '+/')), true) : [];
    $phones = array_values(array_filter($readings));
    file_put_contents(getenv('REACHED'), json_encode(
        ['handler' => $handler, 'sub' => $claims['sub'] ?? null, 'phones' => $phones,
         'path' => explode('?', $_SERVER['REQUEST_URI'])[0], 'htu' => $claims['htu'] ?? null], JSON_INVALID_UTF8_SUBSTITUTE) . "\n", FILE_APPEND | LOCK_EX);
}

$path = $_SERVER['HTTP_X_ORIGINAL_URL'] ?? $_SERVER['HTTP_X_REWRITE_URL'] ?? $_SERVER['REQUEST_URI'];
$path = rawurldecode(parse_url($path, PHP_URL_PATH) ?: '/');
$path = preg_replace('#^/index\.php(?=/|$)#', '', $path);
$path = '/' . trim(preg_replace('#/+#', '/', $path), '/');
foreach (['rest_route' => '/wp-json', 's' => '', 'r' => '', '_url' => ''] as $name => $below) {
    $route = $_GET[$name] ?? ($name === 'rest_route' ? $_POST[$name] ?? null : null);
    if ($path === '/' && is_string($route)) {
        $path = $below . '/' . trim(preg_replace('#/+#', '/', $route), '/');
    }
}
$method = strtoupper($_SERVER['REQUEST_METHOD']);
if ($method === 'POST') {
    $method = strtoupper($_SERVER['HTTP_X_HTTP_METHOD_OVERRIDE'] ?? $_POST['_method'] ?? $_GET['_method'] ?? $method);
}
if ($method === 'GET' && isset($_GET['_method'])) {
    $method = strtoupper($_GET['_method']);  // WordPress
}
$json = str_contains($_SERVER['CONTENT_TYPE'] ?? '', 'json') ? json_decode(file_get_contents('php://input'), true) : null;
match ("$method $path") {
    'POST /api/register', 'POST /wp-json/api/register' => tell('register', [$_POST['phone'] ?? null, $_REQUEST['phone'] ?? null]),
    'POST /api/json/register' => tell('register', [is_array($json) ? $json['phone'] ?? null : null]),
    'POST /api/query/register' => tell('register', [$_GET['phone'] ?? null, $_REQUEST['phone'] ?? null]),
    'POST /api/sms/code', 'POST /api/json/sms/code' => tell('send', []),
    'PUT /api/account' => tell('account', []),
    default => null,
};
header('Content-Type: application/json');
echo '{}';
